"""What may break off runs in a child: compiled code under sanitizers, and runtimes whose checks end the process.

Python's tests then report a failure, where otherwise they would be gone.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import pickle
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def apart(work: Callable[[], T]) -> T:
    """What ``work`` returns, or raises, in a fork of this process. Raises AssertionError where a signal ends that."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # that other threads stay behind, which none of this needs
            child = os.fork()
        if not child:
            _work(work, answer)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        assert not code, f"the child broke off with {f'signal {-code}' if code < 0 else f'code {code}'}; its stderr says why"
        returned, value = pickle.loads(answer.read_bytes())
    if returned:
        result: T = value
        return result
    raise value


def _work(work: Callable[[], object], answer: Path) -> None:
    """In the child, which ends here whatever comes."""
    code = 1
    try:
        faulthandler.disable()
        gc.disable()  # looking for garbage would copy every page of the parent's objects
        try:
            answer.write_bytes(pickle.dumps((True, work())))
        except Exception as error:
            answer.write_bytes(pickle.dumps((False, error)))
        code = 0
    finally:
        os._exit(code)
