"""README.md and docs/: links lead somewhere, code runs, and what is counted, quoted or named there is so."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import io
import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from forked import forked

import mcuprune
from mcuprune import errors
from mcuprune.cli import main
from mcuprune.costs import resources
from mcuprune.graph import network
from mcuprune.operators import table as ops

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
SITE = sorted(DOCS.rglob("*.md"))
PAGES = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "models/README.md")), *SITE]
PAGES += sorted((ROOT / "tests" / "benchmarks").glob("*.md"))
EXAMPLES = sorted((DOCS / "examples").glob("add_*.py"))
_FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return _FENCE.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def marked(page: Path, name: str) -> list[list[str]]:
    """The cells of a table between ``<!-- name -->`` and ``<!-- end -->``, without its head."""
    (table,) = re.findall(rf"<!-- {name} -->\n(.*?)\n<!-- end -->", page.read_text(), re.DOTALL)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


# ----------------------------------------------------------------------------------------------------------------- links


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{target} leads nowhere"
        assert not anchor or anchor in anchors(there), f"{path or 'the page'} has no heading {anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_row_of_a_table_has_the_cells_of_its_head(page):
    head = 0
    for line in _FENCE.sub("", page.read_text()).splitlines():
        cells = line.replace("\\|", "").count("|") if line.startswith("|") else 0
        head = cells if not head or not cells else head
        assert cells == head, line


def test_every_page_is_in_the_contents():
    listed = set()
    for page in SITE:
        for contents in re.findall(r"^```\{toctree\}\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE):
            names = [line for line in contents.splitlines() if line and not line.startswith(":") and "*" not in line]
            listed |= {(page.parent / f"{name}.md").resolve() for name in names}
    assert set(SITE) - listed == {DOCS / "index.md"}
    assert all(page.exists() for page in listed)


def test_the_front_page_is_a_screen_and_a_half():
    front = (ROOT / "README.md").read_text()
    assert len(front.splitlines()) <= 90
    assert "kTensorArenaSize" in front
    assert "arena size before flashing" in front


# ------------------------------------------------------------------------------------------------------------ named things


def test_paths_of_modules_exist():
    for page in SITE:
        for path in re.findall(r"`(mcuprune/[\w/.]+)`", page.read_text()):
            assert (ROOT / path).exists(), f"{named(page)}: {path} doesn't exist"


def test_where_a_convolution_is_decided():
    """What a line names is defined in that very module, a method in that very class: nobody has to look further."""
    rows = marked(DOCS / "architecture.md", "conv")
    assert [question.split()[3] for question, _ in rows] == ["cost", "cut", "kernel", "training"]
    for question, answer in rows:
        path, *names = re.findall(r"`([\w./]+)`", answer)
        tree = ast.parse((ROOT / path).read_text())
        assert names
        assert set(names) <= defined(tree), f"{question} {path} doesn't define {names}"


def defined(tree: ast.AST) -> set[str]:
    """Functions and classes, methods with and without their class, and rows of tables by their keys."""
    names = {
        key.value for node in ast.walk(tree) if isinstance(node, ast.Dict) for key in node.keys if isinstance(key, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{member.name}" for member in node.body if isinstance(member, ast.FunctionDef)}
    return names


def test_flags_that_are_named_exist():
    """Those of mcuprune's commands, in running text and in shown commands; other programs' flags are few."""
    known = set(re.findall(r"--[a-z][a-z-]+", (DOCS / "commands.md").read_text()))
    others = {"--extra-index-url", "--check", "--help", "--version"}
    for page in [ROOT / "README.md", *SITE]:
        shown = re.findall(r"`([^`\n]+)`", prose(page)) + re.findall(r"^(?:\$ )?mcuprune .*", page.read_text(), re.MULTILINE)
        wrong = {flag for text in shown for flag in re.findall(r"--[a-z][a-z-]+", text)} - known - others
        assert not wrong, f"{named(page)}: no command has {sorted(wrong)}"


def test_every_command_has_a_section():
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert main(["--help"]) == 0
    commands = re.findall(r"^  ([a-z]+)  ", said.getvalue().partition("Commands:")[2], re.MULTILINE)
    assert {"profile", "check", "prune", "verify", "boards"} <= set(commands)
    page = (DOCS / "commands.md").read_text()
    assert re.findall(r"^## ([a-z]+)$", page, re.MULTILINE) == commands, "run `make docs`"


def test_the_reference_lists_all_public_names(monkeypatch):
    """Whatever ``__all__`` says, names that are imported on first use included."""
    spec = importlib.util.spec_from_file_location("conf", DOCS / "conf.py")
    conf = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conf)
    assert conf.FACE in (DOCS / "reference.md").read_text()
    late = {"UsageError": errors.UsageError, "Profile": resources.Profile, "LIMIT": 3, "load": network.load, "network": network}
    monkeypatch.setattr(mcuprune, "__all__", list(late), raising=False)
    monkeypatch.setattr(mcuprune, "__getattr__", late.__getitem__, raising=False)
    directives = re.findall(r"^\.\. (\w+):: mcuprune\.(\w+)$", conf.face(), re.MULTILINE)
    assert directives == [
        ("autofunction", "load"),
        ("autoclass", "Profile"),
        ("autoclass", "UsageError"),
        ("autodata", "LIMIT"),
    ]


# -------------------------------------------------------------------------------------------------------------- messages


def messages() -> list[str]:
    """Every literal text of the package; what a message takes in is left out of it."""
    texts = []
    for path in (ROOT / "mcuprune").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                texts.append("".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return texts


def test_quoted_messages_are_in_the_code():
    texts = messages()
    quoted = re.findall(r"^\| `([^`]+)` \|", (DOCS / "failures.md").read_text(), re.MULTILINE)
    assert len(quoted) > 30
    for quote in quoted:
        assert any(quote in text for text in texts), f"no message says {quote!r} any more"


def test_every_kind_of_error_has_its_remedies():
    page = (DOCS / "failures.md").read_text()
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.McupruneError)]
    for kind in kinds:
        assert kind is errors.McupruneError or f"## {kind.__name__}:" in page, f"docs/failures.md has no {kind.__name__}"


# ------------------------------------------------------------------------------------------------------------------ code


def run(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "models").symlink_to(ROOT / "models")
    paths = os.pathsep.join([str(ROOT), str(DOCS / "examples")])
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def examples(once):
    """How each example ended, in a process of its own: they change the tables that they add to."""

    def make(folder):
        programs = {example.stem: example.read_text() for example in EXAMPLES}
        for name in programs:
            (folder / name).mkdir()
            (folder / name / "models").symlink_to(ROOT / "models")
        return forked("import mcuprune, onnxruntime, torch", programs, folder, [ROOT, DOCS / "examples"])

    return once("examples of the documentation", make)


@pytest.mark.thorough
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_examples_run(example, examples):
    done = examples[example.stem]
    assert done.returncode == 0, done.output


def test_every_example_is_on_a_page():
    pages = "".join(page.read_text() for page in SITE)
    assert all(f"```python\n# docs/examples/{example.name}\n" in pages for example in EXAMPLES)


@pytest.mark.thorough
def test_shown_python_runs(tmp_path):
    code = [
        block
        for page in [ROOT / "README.md", *SITE]
        for block in re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
        if not block.startswith("# docs/examples/")
    ]
    assert code
    done = run(["-c", "\n".join(code)], tmp_path)
    assert done.returncode == 0, done.stderr


def test_public_names_exist():
    for page in [ROOT / "README.md", *SITE]:
        for name in re.findall(r"`mcuprune\.([A-Za-z]\w*)", prose(page)):
            assert name in ("toml", "data", "sha256", *mcuprune.__all__), f"{named(page)}: there is no mcuprune.{name}"


# ----------------------------------------------------------------------------------------------------- the count by hand

#: The worked example as its page tells it: what each step reads and makes, in bytes. Relu and Add write in place over the
#: first tensor that they read; what they make keeps its name.
SIZES = {"x": 32, "a1": 128, "b1": 128, "a2": 32, "b2": 32, "mean": 2, "y": 3}
STEPS = {
    "a1": (("x",), "a1"),
    "a1relu": (("a1",), "a1"),
    "b1": (("x",), "b1"),
    "b1relu": (("b1",), "b1"),
    "a2": (("a1",), "a2"),
    "b2": (("b1",), "b2"),
    "add": (("a2", "b2"), "a2"),
    "pool": (("a2",), "mean"),
    "fc": (("mean",), "y"),
}
BEFORE = {
    "a1relu": {"a1"},
    "b1relu": {"b1"},
    "a2": {"a1relu"},
    "b2": {"b1relu"},
    "add": {"a2", "b2"},
    "pool": {"add"},
    "fc": {"pool"},
}


def counted(order: tuple[str, ...]) -> list[int]:
    """Bytes alive at every step."""
    made, found = {"x"}, []
    for index, step in enumerate(order):
        _, makes = STEPS[step]
        later = {tensor for other in order[index:] for tensor in STEPS[other][0]}
        made = {tensor for tensor in made if tensor in later}
        found.append(sum(SIZES[tensor] for tensor in made | {makes}))
        made |= {makes}
    return found


@pytest.fixture(scope="module")
def worked():
    path = DOCS / "examples" / "worked.onnx"
    return resources.profile(network.load(path, accept=ops.accept(str(path))))


def test_the_worked_file_is_what_its_code_builds():
    sys.path.insert(0, str(DOCS / "examples"))
    try:
        from worked import worked as build
    finally:
        sys.path.remove(str(DOCS / "examples"))
    assert onnx.load(DOCS / "examples" / "worked.onnx") == build()


def test_costs_counted_by_hand(worked):
    last = re.compile(r"(\d+)$")
    *rows, total = [[cell.strip("`") for cell in row] for row in marked(DOCS / "numbers.md", "count")]
    layers = {layer.node: layer for layer in worked.layers}
    for node, macs, weights, biases, params, flash in rows:
        layer = layers.pop(node)
        assert [int(last.search(cell)[1]) for cell in (macs, params, flash)] == [layer.macs, layer.params, layer.flash]
        assert int(last.search(weights)[1]) + int(biases) == layer.params
        for cell in (macs, weights, flash):  # the arithmetic that stands there
            terms, _, result = cell.rpartition(" = ")
            assert not terms or eval(terms.replace("x", "*")) == int(result)
    assert not any(layer.macs or layer.flash or layer.params for layer in layers.values())
    assert [int(cell) for cell in (total[1], total[4], total[5])] == [worked.total[key] for key in ("macs", "params", "flash")]


def test_memory_counted_by_hand(worked):
    shown = {}
    for name, peak in (("file order", worked.memory.file_order), ("best order", worked.memory.peak)):
        rows = marked(DOCS / "numbers.md", name)
        order = tuple(step.strip("`") for step, _, _ in rows)
        shown[name] = [int(size) for _, _, size in rows]
        assert shown[name] == counted(order)
        for _, alive, size in rows:
            assert sum(map(int, re.findall(r"(?<=[\w]) (\d+)", alive))) == int(size)
        assert max(shown[name]) == peak
        assert f"The peak is {peak}" in (DOCS / "numbers.md").read_text()
    orders = (
        order
        for order in itertools.permutations(STEPS)
        if all(order.index(first) < order.index(step) for step, earlier in BEFORE.items() for first in earlier)
    )
    assert min(max(counted(order)) for order in orders) == worked.memory.peak == max(shown["best order"])
    assert worked.memory.exact
