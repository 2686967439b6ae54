"""The house has rooms on floors: a module imports from rooms on lower floors alone, and few may import what is heavy."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mcuprune"

#: From the ground up. Rooms of one floor don't import each other. A room is a folder, or a module beside the folders.
FLOORS = (
    ("immutable",),
    ("errors", "names", "escape", "notebook", "schedule"),
    ("units", "places", "options", "console", "usercode", "foreign"),
    ("graph", "data", "handiwork"),
    ("operators",),
    ("passes", "channels", "bands"),
    ("deploy",),
    ("costs",),
    ("train",),
    ("run",),
    ("result",),
    ("preparing",),
    ("pruning", "rerun", "sweep"),
    ("dropping", "inspecting"),
    ("exporting", "report", "config"),
    ("sweeping", "portfolio"),
    ("face",),
    ("pruner", "asking"),
    ("cli",),
    ("__main__",),
)
#: What takes a second to import, and the rooms whose modules may import it at once. Anyone may inside a function.
HEAVY = ("torch", "torchvision", "onnx2torch", "onnxruntime", "sklearn")
MAY_BE_HEAVY = ("train", "pruner")

#: Rooms that do the work. A command asks the public face for it, or the road of its own (``exporting``, ``dropping``, ...).
WORK = ("schedule", "graph", "data", "operators", "passes", "channels", "bands", "deploy", "costs", "train", "run")
#: What commands take from these rooms all the same, and for what.
FOR_COMMANDS = {
    "costs.banding": "how --bands is spelled",
    "costs.resources": "each resource has a flag and a column",
    "data.feed": "options of how data are fed",
    "data.loading": "files that data come from, which no output may replace",
    "data.spelling": "a misspelt name of a data set, said before torch is imported",
    "deploy.boards": "names of boards and their limits",
    "deploy.codesize": "names of runtimes",
    "deploy.project": "kinds of projects",
    "graph.external": "files beside a model, which no output may replace",
    "graph.network": "the types of a network and of a shape",
    "passes.reorder": "profile --write-order, which the face doesn't have",
    "run.trial": "options of verify",
    "train.course": "what the runs of a sweep on a cluster must have in common",
    "train.ranks": "one command in several processes",
    "train.request": "options of prune",
    "train.task": "the type of a line of the history",
    "train.tasks.choice": "names of tasks",
    "train.tracking": "trackers that runs on a cluster would lose",
}

#: Most lines of a function, with its docstring, and of a module.
LONGEST_FUNCTION, LONGEST_MODULE = 60, 700
#: Modules that may have more lines, and why.
LONG = {"operators.table": "a table: an entry for each operator"}

FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def module_of(path: Path) -> str:
    """The name of a file's module, without that of the package."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in FILES}


def room_of(module: str) -> str:
    return module.partition(".")[0]


@cache
def imports(path: Path, *, lazy: bool = True) -> frozenset[str]:
    """Full names that a file imports; without ``lazy`` those alone that importing the file imports too."""
    return frozenset(_imports(path, lazy=lazy))


def _imports(path: Path, *, lazy: bool) -> Iterator[str]:
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


def own(names: Iterable[str], *, known: Collection[str] = MODULES) -> set[str]:
    """Modules of the package among imported names, each without the package's name."""
    found = set()
    for name in names:
        if name.startswith("mcuprune."):
            module = name.removeprefix("mcuprune.")
            while module and module not in known:
                module = module.rpartition(".")[0]
            found.add(module)
    return found - {""}


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down_only(module):
    room = room_of(module)
    assert room in FLOOR_OF, f"give {room} a floor in FLOORS"
    for imported in {room_of(name) for name in own(imports(MODULES[module]))} - {room}:
        assert FLOOR_OF[imported] < FLOOR_OF[room], f"{module} imports {imported}, which isn't on a lower floor"


@pytest.mark.parametrize("room", FLOOR_OF)
def test_no_circle_within_a_room(room):
    """Imports inside functions count as well."""
    left = {name: own(imports(path)) - {name} for name, path in MODULES.items() if room_of(name) == room}
    while left:
        free = [name for name, needs in left.items() if not needs & left.keys()]
        assert free, f"these import each other: {sorted(left)}"
        left = {name: needs for name, needs in left.items() if name not in free}


@pytest.mark.parametrize("module", MODULES)
def test_few_rooms_are_heavy(module):
    if room_of(module) not in MAY_BE_HEAVY:
        assert not heavy(module)


def heavy(module: str) -> set[str]:
    """The packages of HEAVY that a module imports at once."""
    return {name.split(".")[0] for name in imports(MODULES[module], lazy=False)} & set(HEAVY)


def test_the_command_line_is_light():
    """What ``cli`` imports at once, and what that imports in turn, is free of heavy packages."""
    reached: set[str] = set()
    todo = {name for name in MODULES if room_of(name) == "cli"}
    while todo:
        module = todo.pop()
        reached.add(module)
        todo |= {name for name in own(imports(MODULES[module], lazy=False)) if name in MODULES} - reached
    assert not {module: found for module in reached if (found := heavy(module))}


def test_commands_leave_the_work_to_the_face():
    """What they take from the rooms below is for their options and messages, and no name of the list is a leftover."""
    commands = [MODULES[name] for name in MODULES if room_of(name) == "cli"]
    below = {name for path in commands for name in own(imports(path)) if room_of(name) in WORK}
    assert below == set(FOR_COMMANDS)
    for command in ("check", "data", "models", "profile", "verify"):
        assert "face" in own(imports(MODULES[f"cli.{command}"]))


@pytest.mark.parametrize("module", MODULES)
def test_functions_and_modules_are_short(module):
    text = MODULES[module].read_text()
    lines = text.count("\n")
    assert not long_functions(text)
    assert (lines > LONGEST_MODULE) == (module in LONG), f"{module} has {lines} lines"


def long_functions(text: str) -> list[tuple[str, int]]:
    """Names and numbers of lines of functions that have too many, decorators aside."""
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    lengths = [(node.name, (node.end_lineno or node.lineno) - node.lineno + 1) for node in functions]
    return [(name, length) for name, length in lengths if length > LONGEST_FUNCTION]


def test_a_long_function_is_found():
    body = "    pass\n" * LONGEST_FUNCTION
    assert long_functions(f"class A:\n  @cached\n  def f(self):\n{body}") == [("f", LONGEST_FUNCTION + 1)]
    assert not long_functions(f"def f():\n{body[:-9]}")


def test_an_arrow_upwards_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.PACKAGE", tmp_path)
    (tmp_path / "units.py").write_text("def f():\n    from mcuprune import cli\n    from .report import text\n")
    assert own(imports(tmp_path / "units.py")) == {"cli", "report"}
    assert not own(imports(tmp_path / "units.py", lazy=False))
