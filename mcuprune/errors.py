"""The user-facing exception family.

A ``McupruneError`` is a mistake that the person at the keyboard can mend. Its message says where, what was found and
what to do next; ``cli`` prints it on one line and exits with 2. Anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

#: Of a message, in characters.
_LONGEST = 2000


def short(text: str) -> str:
    """A name out of a file as messages show it: 80 characters at most."""
    return text if len(text) <= 80 else f"{text[:77]}..."


def cause(error: Exception) -> str:
    """Why one can't be read or written, in the system's words. error: OSError, or ValueError for a path that none can have."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


class McupruneError(Exception):
    """A user's mistake: one message, exit code 2. The class name is the ``kind`` in JSON output."""

    def __init__(self, message: str) -> None:
        message = " ".join(message.split("\n"))  # names in a damaged file hold anything
        if len(message) > _LONGEST:  # shortened in the middle: the end says what to do
            message = f"{message[: _LONGEST - 500]} ... {message[-490:]}"
        super().__init__(message)


class ModelError(McupruneError):
    """The model file can't be read, or breaks a rule that every CNN must keep."""


class UnsupportedOperator(ModelError):
    """A node's operator has no entry in the operator table, or uses a form of it that the entry refuses.

    tensor: the first output of that node, where one is known; what is refused may be a tail that can be cut off there.
    """

    def __init__(self, message: str, *, tensor: str | None = None) -> None:
        super().__init__(message)
        self.tensor = tensor


class UsageError(McupruneError):
    """A flag, a size or a configuration value can't be understood."""


class BudgetError(McupruneError):
    """A budget that no selection of channels can hold, or limits that contradict each other."""


class DataError(McupruneError):
    """A data set can't be read, or doesn't fit the model."""


class MissingExtra(McupruneError):
    """A command needs packages that only an extra installs."""


def lacking(who: str, error: ImportError | OSError, then: str) -> MissingExtra:
    """What to raise where a package can't be imported: it is missing, or something is wrong with it, such as a lost library.

    who: what needs it. then: what to do, from "pip install" on.
    """
    if isinstance(error, ModuleNotFoundError) and error.name:
        return MissingExtra(f"{who} needs {error.name}, which isn't installed; {then}")
    said = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return MissingExtra(f"{who} can't import a package that is installed ({said}); install that one again, or {then}")


class RankLost(McupruneError):
    """Another process of a training on several has ended or doesn't answer, so that this one can't go on."""


class OutputError(McupruneError):
    """A result can't be written where the user asked for it."""
