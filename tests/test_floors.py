"""The house has floors: a module imports from lower floors alone, and few may import what is heavy."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mcuprune"

#: From the ground up. Modules of one floor don't import each other; a package is one module.
FLOORS = (
    ("errors", "names", "escape"),
    ("units", "qlinear", "places", "external", "console", "greedy", "branches", "lowering", "intake"),
    ("tails",),
    ("network", "memory"),
    ("canonical", "attributes"),
    ("ops",),
    ("channels", "fusion"),
    ("folding", "export"),
    ("deploy",),
    ("runtimes", "tflite"),
    ("resources",),
    ("data", "widths", "checkpoint", "salience"),
    ("evaluate", "feeding", "task", "optimizer"),
    ("batching", "runners"),
    ("trainable",),
    ("quantize", "batchproof", "layerwise"),
    ("training", "rehearsal", "equalize", "synthetic"),
    ("methods",),
    ("pruning", "verify"),
    ("report", "config"),
    ("outcome",),
    ("cli",),
    ("__main__",),
)
#: Who may import what takes a second to import. Anyone may inside a function.
HEAVY = ("torch", "torchvision", "onnx2torch", "onnxruntime", "sklearn")
MAY_BE_HEAVY = (
    "batching",
    "batchproof",
    "trainable",
    "optimizer",
    "quantize",
    "training",
    "equalize",
    "synthetic",
    "methods",
    "pruning",
)

FLOOR_OF = {module: floor for floor, modules in enumerate(FLOORS) for module in modules}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def module_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path, *, lazy: bool = True) -> Iterator[str]:
    """Full names that a file imports; without ``lazy`` those alone that importing the file imports too."""
    todo: list[ast.AST] = [ast.parse(path.read_text())]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(["mcuprune", *path.relative_to(PACKAGE).parts[: -node.level]]) if node.level else ""
            name = ".".join(part for part in (base, node.module) if part)
            yield from (f"{name}.{alias.name}" for alias in node.names)
        elif lazy or (not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not _for_types(node)):
            todo.extend(ast.iter_child_nodes(node))


def _for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def own(names: Iterator[str]) -> set[str]:
    """Modules of the package among imported names."""
    parts = [name.split(".") for name in names]
    return {part[1] for part in parts if part[0] == "mcuprune" and len(part) > 1 and not part[1].startswith("__")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down_only(path):
    module = module_of(path)
    assert module in FLOOR_OF, f"give {module} a floor in FLOORS"
    for imported in own(imports(path)) - {module}:
        assert imported in FLOOR_OF, f"give {imported} a floor in FLOORS"
        assert FLOOR_OF[imported] < FLOOR_OF[module], f"{module} imports {imported}, which isn't on a lower floor"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_few_modules_are_heavy(path):
    if module_of(path) not in MAY_BE_HEAVY:
        assert not {name.split(".")[0] for name in imports(path, lazy=False)} & set(HEAVY)


def test_the_command_line_is_light():
    """What ``cli`` imports, and what that imports in turn, is free of heavy modules."""
    reached, todo = set(), {"cli"}
    while todo:
        module = todo.pop()
        reached.add(module)
        for path in (path for path in FILES if module_of(path) == module):
            todo |= own(imports(path, lazy=False)) - reached
    assert not reached & set(MAY_BE_HEAVY)


def test_an_arrow_upwards_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.PACKAGE", tmp_path)
    (tmp_path / "units.py").write_text("def f():\n    from mcuprune import cli\n    from .report import text\n")
    assert own(imports(tmp_path / "units.py")) == {"cli", "report"}
    assert not own(imports(tmp_path / "units.py", lazy=False))
