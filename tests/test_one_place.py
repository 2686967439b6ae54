"""What docs/examples add in one place is found by who types, by programs, in the pages and in reports (``added``)."""

from __future__ import annotations

import inspect
from pathlib import Path

import added
import pytest
from forked import forked

ROOT = Path(__file__).parents[1]
EXAMPLES = [example.stem.removeprefix("add_") for example in sorted((ROOT / "docs" / "examples").glob("add_*.py"))]


@pytest.fixture
def ended(once):
    """How the assertions of each example ended."""

    def make(folder):
        programs = {name: f"import added\nadded.{name}()\n" for name in EXAMPLES}
        for name in programs:
            (folder / name).mkdir()
            (folder / name / "models").symlink_to(ROOT / "models")
        paths = [ROOT, ROOT / "tests", ROOT / "docs" / "examples"]
        return forked("import mcuprune, onnxruntime, torch", programs, folder, paths)

    return once("what is added in one place", make)


@pytest.mark.thorough
@pytest.mark.parametrize("name", EXAMPLES)
def test_what_is_added_in_one_place_is_found_everywhere(name, ended):
    assert ended[name].returncode == 0, ended[name].output


def test_every_example_is_looked_for():
    assert all(inspect.isfunction(getattr(added, name, None)) for name in EXAMPLES)
