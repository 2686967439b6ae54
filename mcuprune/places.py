"""Where files go: no result may land on a file that the command reads, or on another of its results.

A command names all that it will write and all that it reads, and calls ``settle`` once before any work. Paths are compared
as files: through links, hard links, relative paths, and the case of names. ``write_bytes`` then writes whole or not at all.

A file is made under another name beside its place and renamed into it. Whatever ends the run, that other name is removed; only
a kill that no process can catch leaves it behind, and the next run that writes to the same place removes it then. It knows by
the lock on the file, which ends with its process.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from mcuprune.errors import OutputError, cause
from mcuprune.immutable import immutable

try:
    import fcntl
except ImportError:  # not a POSIX system: nothing is locked, and nothing that a killed run left is removed
    fcntl = None  # type: ignore[assignment]

#: The names of a stream that this process has open.
_STREAM = re.compile(r"/dev/(?P<name>stdout|stderr)|/(?:dev|proc/self)/fd/(?P<number>\d{1,9})")
_STREAMS = {"stdout": 1, "stderr": 2}


#: Networks, their code and reports: no command reads them in a folder of data, so that they may lie there and be written anew.
_WRITTEN = (".onnx", ".tflite", ".checkpoint", ".c", ".h", ".html", ".md")


@immutable
class Output:
    """A file that a command is going to write.

    flag: what asked for it, as a message calls it. stream: whether a device or a pipe will do, which is written to and not
    replaced. make_folder: whether a folder that doesn't exist is to be made.
    """

    flag: str
    path: str
    stream: bool = False
    make_folder: bool = False


@immutable
class Source:
    """A file that a command reads, or a folder of them. what: as a message calls it, such as ``the model``."""

    what: str
    path: str


def settle(outputs: Sequence[Output], sources: Iterable[Source]) -> None:
    """Refuse, before any work, outputs that would destroy a source or each other, or that can't be written.

    Missing folders are made where an output says so. Raises OutputError.
    """
    distinct(outputs, sources)
    for output in outputs:
        probe(output)


def distinct(outputs: Sequence[Output], sources: Iterable[Source]) -> None:
    """Raise OutputError for an output that is one of the sources, another output, or in a folder that is to be a file."""
    if not outputs:
        return
    read = [(source, _Identity.of(source.path)) for source in sources]
    earlier: list[tuple[Output, _Identity]] = []
    for output in outputs:
        if not output.path:
            raise OutputError(f"{output.flag}: names no file; name one to write")
        identity = _Identity.of(output.path)
        for source, other in read:
            if identity.is_file_of(other) or _is_read_below(identity, other):
                raise OutputError(f"{output.flag} {output.path}: is {source.what}; name another file to write")
        if output.stream and not replaceable(output.path):
            continue  # a device takes any number of results, one after the other
        for before, other in earlier:
            if identity.would_be(other):
                raise OutputError(
                    f"{output.flag} {output.path}: is the file that {before.flag} writes; name another file to write"
                )
            if identity.is_inside(other) or other.is_inside(identity):
                check_place((output if other.is_inside(identity) else before).path)
                raise OutputError(
                    f"{output.flag} {output.path}: one path is inside the other's file, {before.flag} {before.path}; "
                    "name another file to write"
                )
        earlier.append((output, identity))


@immutable
class _Identity:
    """What tells a file from others. place: its path without links. number: device and index of the file, if it exists."""

    place: str
    number: tuple[int, int] | None

    @classmethod
    def of(cls, path: str) -> _Identity:
        try:
            place = os.path.realpath(path)
        except (OSError, ValueError) as error:  # no current folder, or a zero byte in the name
            raise OutputError(f"{path}: no file can have this path ({cause(error)}); choose another place") from None
        try:
            status = os.stat(place)
        except (OSError, ValueError):
            return cls(place, None)
        return cls(place, (status.st_dev, status.st_ino))

    def is_file_of(self, other: _Identity) -> bool:
        """Whether both are one file now."""
        return self.place == other.place or (self.number is not None and self.number == other.number)

    def would_be(self, other: _Identity) -> bool:
        """Whether both are one file on some system: two results whose names differ in case alone are one there."""
        return self.is_file_of(other) or self._folded() == other._folded()

    def is_inside(self, other: _Identity) -> bool:
        return self._folded().startswith(other._folded() + os.sep)

    def _folded(self) -> str:
        return unicodedata.normalize("NFC", self.place).casefold()


def _is_read_below(output: _Identity, folder: _Identity) -> bool:
    """Whether an output is now a file in a folder that is read, by whatever name, and of a kind that may be read there."""
    if output.number is None or os.path.splitext(output.place)[1].lower() in _WRITTEN or not os.path.isdir(folder.place):
        return False
    seen = set[tuple[int, int]]()
    for here, folders, files in os.walk(folder.place, followlinks=True):
        number = _Identity.of(here).number
        if number is None or number in seen:  # links may lead back
            folders.clear()
            continue
        seen.add(number)
        if any(_Identity.of(os.path.join(here, file)).number == output.number for file in files):
            return True
    return False


def replaceable(path: str | Path) -> bool:
    """Whether a file may take this place: nothing or a regular file is there, and it isn't the name of an open stream."""
    if os.path.abspath(path).startswith(("/dev/std", "/dev/fd/", "/proc/")):
        return False
    return os.path.isfile(path) or not os.path.exists(path)


def check_place(path: str | Path) -> None:
    """Raise OutputError for a place where no file can be: a device would be replaced by one, a protected file lost."""
    if not replaceable(path):
        what = "a folder" if os.path.isdir(path) else "no regular file"
        raise OutputError(f"{path}: is {what}; name another place to write")
    if os.path.islink(os.path.realpath(path)):
        raise OutputError(f"{path}: can't be written ({os.strerror(errno.ELOOP)}); choose another place")
    if os.path.exists(path) and not os.access(path, os.W_OK):
        raise OutputError(f"{path}: can't be written (it is write-protected); choose another place")


def probe(output: Output) -> None:
    """Find out whether ``output`` can be written, and leave no trace but the folders it wants. Raises OutputError."""
    with _message(output.path):
        if output.stream and not replaceable(output.path):
            if os.path.isdir(output.path):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            os.stat(output.path)
            return
        # a link's own folder must be there too: what belongs to an output lies beside the link
        folders = dict.fromkeys([Path(output.path).parent, Path(os.path.realpath(output.path)).parent])
        for folder in folders if output.make_folder else ():
            folder.mkdir(parents=True, exist_ok=True)
        check_place(output.path)
        place = Path(os.path.realpath(output.path))
        remove_leftovers(place)
        with _partial(place):
            pass


def check_folder(flag: str, path: str) -> None:
    """Raise OutputError where no folder can be made: something else is there or on the way, or nothing may be written there.

    Nor may ``path`` be empty, which would be the current folder, and nobody said so.
    """
    if not path:
        raise OutputError(f"{flag}: names no folder; name one to write")
    with _message(path):
        nearest = next(place for place in (Path(path), *Path(os.path.abspath(path)).parents) if os.path.lexists(place))
        if not nearest.is_dir():
            raise OutputError(f"{flag} {path}: {nearest} is no folder; name a folder to write")
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise OutputError(f"{flag} {path}: {nearest} is write-protected; name another folder")


def write_bytes(content: bytes, path: str | Path, *, make_folder: bool = False) -> None:
    """Write a file whole or not at all: beside its place first, then renamed. A link stays one; what it points to is written.

    make_folder: whether a folder that doesn't exist is made. Raises OutputError, and leaves what was there as it was.
    """
    with _message(path):
        if make_folder:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        check_place(path)
        place = Path(os.path.realpath(path))
        with _partial(place) as partial:
            with suppress(OSError):  # what was there for its owner alone stays so
                os.chmod(partial.name, stat.S_IMODE(os.stat(place).st_mode))
            partial.write(content)
            partial.flush()
            if fcntl is None:
                partial.close()  # elsewhere an open file can't be renamed
            os.replace(partial.name, place)


def append(content: bytes, path: str | Path) -> None:
    """Write to a device or a pipe. Raises OutputError.

    A stream of this process is written where it stands: one that was redirected to a file, opened anew, would begin elsewhere
    in it, and what comes next on the stream would overwrite it.
    """
    stream_of = _STREAM.fullmatch(os.fspath(path))
    with _message(path):
        if stream_of is None:
            with open(path, "ab") as stream:
                stream.write(content)
            return
        for own in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # a closed or broken one says so itself
                if own is not None:
                    own.flush()
        number = _STREAMS[stream_of["name"]] if stream_of["name"] else int(stream_of["number"])
        with open(number, "wb", closefd=False) as stream:
            stream.write(content)


@contextmanager
def _message(path: str | Path) -> Iterator[None]:
    """Turn what the system says against a path into the user's message."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise OutputError(f"{path}: can't be written ({cause(error)}); choose another place") from None


@contextmanager
def _partial(place: Path) -> Iterator[BinaryIO]:
    """A new, locked file beside ``place``, under a name that nobody else uses; gone at the end, however that comes."""
    partial = place.parent / f"{place.name}.mcuprune-{os.urandom(4).hex()}.partial"
    stream: BinaryIO | None = None
    try:
        stream = open(partial, "xb")  # noqa: SIM115 (closed below, whatever happens)
        _lock(stream.fileno())
        yield stream
    finally:
        with suppress(OSError):  # a full disk fails once more
            if stream is not None:
                stream.close()
        with suppress(OSError):  # renamed, never made, or a name that is too long
            partial.unlink()


@contextmanager
def leaving_none_empty(folder: str | Path) -> Iterator[None]:
    """Remove at the end, of a folder and of those above it, the ones that weren't there before and hold nothing."""
    path = Path(os.path.abspath(folder))
    fresh = [place for place in (path, *path.parents) if not os.path.lexists(place)]
    try:
        yield
    finally:
        with suppress(OSError, ValueError):  # it holds something now, or was never made
            for place in fresh:
                place.rmdir()


@contextmanager
def alone_in(folder: str | Path) -> Iterator[None]:
    """Work in a folder as the only process of those that ask for it so. It is made where it isn't there, and gone again where
    nothing was put into it.

    Raises OutputError where another one works there, or where it can't be made. On a system without locks nobody is kept out.
    """
    fresh = not os.path.lexists(folder)
    held: int | None = None
    try:
        with _message(folder):
            Path(folder).mkdir(parents=True, exist_ok=True)
            if fcntl is not None:
                held = os.open(folder, os.O_RDONLY)
        if held is not None and _is_held_elsewhere(held):
            raise OutputError(f"{folder}: another mcuprune is at work there; wait for its end, or name another folder")
        yield
    finally:
        if fresh:
            with suppress(OSError):  # it holds something now
                os.rmdir(folder)
        if held is not None:
            os.close(held)


def _is_held_elsewhere(number: int) -> bool:
    """Whether somebody else holds this open file or folder; it is ours from now on if not, until it is closed."""
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    return False


def _lock(number: int) -> bool:
    """Whether nobody else holds this open file; it is ours then until it is closed."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held by another, or a file system without locks
        return False
    return True


def remove_leftovers(path: Path) -> None:
    """Remove what killed runs left beside the file at ``path``: files under our own kind of name that no process holds."""
    place = Path(os.path.realpath(path))
    ours = re.compile(re.escape(place.name) + r"\.mcuprune-[0-9a-f]{8}\.partial")
    with suppress(OSError):
        for name in [entry.name for entry in os.scandir(place.parent) if ours.fullmatch(entry.name)]:
            _remove_unless_held(place.parent / name)


def _remove_unless_held(path: Path) -> None:
    with suppress(OSError):
        number = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        try:
            if stat.S_ISREG(os.fstat(number).st_mode) and _lock(number):
                path.unlink()
        finally:
            os.close(number)
