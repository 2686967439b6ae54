"""What a command says and how it ends: stdout, stderr, interrupts, and what stands there in place of an answer.

Streams may be closed, full or without a reader. An answer that can't be written is an error; a message or a line of progress
that nobody can read never changes how a command ends. Nothing here needs more than Python's own library: it has to work where
the rest can't even be imported.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from types import FrameType
from typing import Any, TextIO

from mcuprune import __version__
from mcuprune.errors import OutputError
from mcuprune.escape import plain

YES, NO, NO_ANSWER, INTERRUPTED = 0, 1, 2, 130

#: The number of the JSON layout. It changes only if a key changes its meaning; more keys may come without.
JSON_FORMAT = 1


# ----------------------------------------------------------------------------------------------------------------- streams


def reserve_streams() -> None:
    """Give the numbers 0 to 2 to the null device where they are closed, so that no file that is opened later gets one.

    Whoever writes to stdout by its number, as C++ code does, would write into that file. Python's own ``sys.stdout`` stays
    None, by which ``answer`` knows.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number


#: What this process keeps to itself, as one of several that do the same: answers, messages.
_hushed = {"answers": False, "messages": False}


def hush(*, answers: bool, messages: bool) -> None:
    """Keep answers and messages to oneself, or not any more: of several processes that do the same, one speaks."""
    _hushed.update(answers=answers, messages=messages)


def answer(written: str) -> None:
    """An answer to stdout. A reader that has gone away, as ``head`` does, is no error. Raises OutputError for all else."""
    if _hushed["answers"]:
        return
    stream: TextIO | None = sys.stdout
    try:
        if stream is None:
            raise OSError(0, "it is closed")
        stream.write(encodable(written, stream))
        stream.flush()
    except (OSError, ValueError) as error:
        unwritable(error)


def unwritable(error: OSError | ValueError) -> None:
    """What follows from a failed write to stdout. Raises OutputError unless its reader has merely gone away."""
    _to_nowhere(sys.stdout)
    if not isinstance(error, BrokenPipeError):
        reason = error.strerror if isinstance(error, OSError) else "it is closed"
        raise OutputError(f"stdout can't be written ({reason})") from None


def remark(line: str) -> None:
    """Text for the person, on stderr, as it stands; lost where stderr can't be written."""
    stream: TextIO | None = sys.stderr
    if stream is None:
        return
    try:
        stream.write(encodable(line, stream))
        stream.flush()
    except (OSError, ValueError):
        _to_nowhere(stream)


def say(message: str) -> None:
    """One message for the person, on one line of stderr."""
    if _hushed["messages"]:
        return
    remark(f"mcuprune: {plain(message)}\n")


_listeners: list[Callable[[str], None]] = []


@contextmanager
def listening(listener: Callable[[str], None]) -> Iterator[None]:
    """Tell a function what is being done, in a few words, for as long as it lasts (``doing``)."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def doing(what: str) -> None:
    """Say to whoever listens what is being done from now on: a sign of life, not a message."""
    for listener in _listeners:
        listener(what)


def printable(text: str, keep: str = "") -> str:
    """The text with characters that would move a cursor or break a line spelled out, except those in ``keep``."""
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)


def encodable(written: str, stream: TextIO) -> str:
    """The same text, with characters that the stream doesn't know spelled out."""
    if can_encode(stream, written):
        return written
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return written.encode(encoding, "backslashreplace").decode(encoding)


def can_encode(stream: TextIO | None, written: str) -> bool:
    """Whether a stream can show a text as it is."""
    try:
        written.encode(getattr(stream, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person sees the stream; a closed one is none."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:
        return False


def finish() -> int | None:
    """Flush both streams, so that the interpreter's own last flush can't fail. NO_ANSWER where an answer was lost by it."""
    lost = None
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError) as error:
            _to_nowhere(stream)
            if stream is sys.stdout and not isinstance(error, BrokenPipeError):
                lost = NO_ANSWER
    return lost


def _to_nowhere(stream: TextIO | None) -> None:
    """Let the interpreter's last flush of a broken stream succeed."""
    with suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(null, stream.fileno())  # type: ignore[union-attr]
        finally:
            os.close(null)


# --------------------------------------------------------------------------------------------------------------- interrupts


class Terminated(KeyboardInterrupt):
    """The system asks the process to end. It ends as after Ctrl-C: what was begun is cleared away, the exit code is 130."""


@contextmanager
def interruptible() -> Iterator[None]:
    """Take SIGTERM and SIGHUP as Ctrl-C is taken, where nobody else has said how they are to be taken."""
    taken: list[tuple[signal.Signals, Any]] = []
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                taken.append((number, signal.signal(number, _terminate)))
    try:
        yield
    finally:
        for number, before in taken:
            signal.signal(number, before)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


#: Set by whoever started this process and holds the other end of its stdin for as long as it lives itself.
WATCHED = "MCUPRUNE_ENDS_WITH_STDIN"


def end_with_parent() -> None:
    """End at once, whatever is being done, when the process that started this one is gone, if it wants that."""
    if os.environ.pop(WATCHED, None) is None:
        return
    held, null = os.dup(0), os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)  # nobody else reads there by mistake
    os.close(null)
    threading.Thread(target=_end_after, args=(held,), daemon=True).start()


def _end_after(held: int) -> None:
    with suppress(OSError):
        os.read(held, 1)  # nothing ever comes
    os._exit(NO_ANSWER)


# ------------------------------------------------------------------------------------------------------- without an answer


def asked_formats(args: Sequence[str]) -> set[tuple[str, str]]:
    """The formats that were asked for and their files, read off arguments that may be no good otherwise."""
    given = [value for flag, value in pairwise(args) if flag == "--format"]
    given += [arg.removeprefix("--format=") for arg in args if arg.startswith("--format=")]
    return {(name, file) for name, _, file in (value.partition("=") for value in given)}


def document(command: str, *, ok: bool, **content: Any) -> dict[str, Any]:
    """A command's JSON document: what all have in common, and its content, as JSON values. ok: whether the answer is yes."""
    return {"format": JSON_FORMAT, "mcuprune": __version__, "command": command, "ok": ok, **content}


def json_error(kind: str, message: str) -> str:
    """What stands in for the answer where there is none."""
    return json.dumps({"format": JSON_FORMAT, "error": {"kind": kind, "message": message}}) + "\n"


def bug(error: BaseException) -> tuple[str, str]:
    """Show the traceback of an error that is no user's mistake. Returns its kind and message as one line."""
    shown = io.StringIO()
    with suppress(Exception):  # an exception whose own text can't be made
        traceback.print_exception(error, file=shown)
    remark(printable(shown.getvalue(), keep="\n"))
    try:
        message = " ".join(str(error).split())
    except Exception:
        message = ""
    return type(error).__name__, message or f"unexpected {type(error).__name__}"
