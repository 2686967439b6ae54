"""Lower bounds of libraries are read from where pip reads them."""

from __future__ import annotations

from pathlib import Path

import pytest
from oldest import oldest

PROJECT = (Path(__file__).parents[1] / "pyproject.toml").read_text()


def test_every_library_that_the_package_needs_has_a_lower_bound_and_only_one() -> None:
    bounds = dict(line.split("==") for line in oldest(PROJECT, ["prune", "verify", "arrow", "ray"]))
    assert {"numpy", "onnx", "typer", "rich", "torch", "onnxruntime", "scikit-learn", "pillow", "pyarrow"} <= bounds.keys()
    assert all(part.isdigit() for version in bounds.values() for part in version.split("."))


def test_two_bounds_of_one_library_are_an_error() -> None:
    text = '[project]\ndependencies = ["a>=1"]\noptional-dependencies = { more = ["a >= 2", "b<3", "c"] }\n'
    with pytest.raises(ValueError, match="a: at least 1 and at least 2"):
        oldest(text, ["more"])
    assert oldest(text.replace("a >= 2", "d[x]>=2"), ["more"]) == ["a==1", "d==2"]
