"""What a person sees of a training: a line an epoch everywhere, and a display on a terminal alone."""

from __future__ import annotations

import io
import sys

import pytest

from mcuprune.cli.progress import Progress
from mcuprune.costs.resources import Budget
from mcuprune.train.task import Step


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def step(epoch: float, sram: int, *, score: float | None = None) -> Step:
    return Step(int(epoch * 10), epoch, 0.5, {"sram": sram}, accuracy=score, score=score, epochs=4.0)


def seen(monkeypatch: pytest.MonkeyPatch, *, quiet: bool = False) -> str:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress(quiet=quiet, no_color=True) as progress:
        progress.start(Budget({"sram": 1024}), {"sram": 4096})
        progress.show(step(0.5, 3072))
        progress.show(step(1.0, 1024, score=0.75))
    return terminal.getvalue()


def test_bars_fall_to_their_limits():
    with Progress(quiet=True, no_color=True) as progress:
        progress.start(Budget({"sram": 1024}), {"sram": 4096})
        (whole,) = progress.budget()
        progress._quiet = False
        progress._used = {"sram": 1024}
        (cut,) = progress.budget()
    full = "█" if "█" in whole else "#"
    assert whole.count(full) > 3 * cut.count(full) > 0
    assert whole.endswith("4.0 KiB of 1.0 KiB, over")
    assert cut.endswith("1.0 KiB of 1.0 KiB, holds")


def test_a_terminal_has_the_display_and_the_log(monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    said = seen(monkeypatch)
    assert "1.0 KiB of 1.0 KiB, holds" in said
    assert "epoch   1.0 of 4" in said
    assert "val  75.0%" in said


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437"])
def test_a_terminal_without_utf_8_has_bars_that_it_can_show(monkeypatch, encoding):
    """Python spells out on stderr what the encoding lacks; a bar of such spellings is none."""
    monkeypatch.delenv("CI", raising=False)
    written = io.BytesIO()

    class Other(io.TextIOWrapper):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Other(written, encoding=encoding, errors="backslashreplace"))
    with Progress(quiet=False, no_color=True) as progress:
        progress.start(Budget({"sram": 1024}), {"sram": 4096})
        progress.show(step(0.5, 3072))
        progress.show(step(1.0, 1024, score=0.75))
    sys.stderr.flush()
    said = written.getvalue().decode(encoding)
    assert "1.0 KiB of 1.0 KiB, holds" in said
    assert "\\u" not in said
    assert ("█" if encoding == "cp437" else "##|") in said


def test_a_ci_server_has_the_log_alone(monkeypatch):
    monkeypatch.setenv("CI", "true")
    said = seen(monkeypatch)
    (line,) = said.splitlines()
    assert line.startswith("train     epoch   1.0 of 4")
    assert "\x1b" not in said


def test_quiet_is_quiet(monkeypatch):
    assert seen(monkeypatch, quiet=True) == ""


def test_no_color_in_the_environment_leaves_colours_out(monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    assert "\x1b[3" not in seen(monkeypatch)
