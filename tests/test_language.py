"""The language of the code: names say what they hold, and every public definition says what it gives."""

from __future__ import annotations

import ast
import doctest
import re
from collections.abc import Iterator
from functools import cache

import pytest
from conftest import Once
from test_floors import MODULES

#: Words that hold anything. Who reads one has to look for what it is.
VAGUE = {"found", "got", "made", "one", "thing", "things"}
Definition = ast.ClassDef | ast.FunctionDef
#: What breaks a rule: by the rule's name and by module.
Faults = dict[str, dict[str, list[str]]]


def vague(tree: ast.AST) -> list[str]:
    """Lines that call a variable, a parameter, an attribute or a function by a word of VAGUE, shown examples included."""
    given = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            given.append((node.lineno, node.id if isinstance(node, ast.Name) else node.attr))
        elif isinstance(node, ast.arg):
            given.append((node.lineno, node.arg))
        elif isinstance(node, Definition):
            given.append((node.lineno, node.name))
    shown = [
        f"shown: {line}"
        for node in ast.walk(tree)
        if isinstance(node, Definition | ast.Module)
        for example in doctest.DocTestParser().get_examples(ast.get_docstring(node) or "")
        for line in vague(ast.parse(example.source))
    ]
    return shown + [f"line {line}: {name}" for line, name in given if name.lower() in VAGUE]


@cache
def trees() -> dict[str, ast.Module]:
    """The parsed source of every module."""
    return {module: ast.parse(path.read_text()) for module, path in MODULES.items()}


@pytest.fixture(scope="session")
def faults(once: Once) -> Faults:
    """Parsed by one worker, which forgets the trees: half a million objects, that every search for garbage would visit."""

    def make(_: object) -> Faults:
        try:
            return {
                rule.__name__: {module: list(rule(tree)) for module, tree in trees().items()}
                for rule in (vague, silent, left_over)
            }
        finally:
            trees.cache_clear()
            classes.cache_clear()

    return once("language", make)


@pytest.mark.parametrize("module", MODULES)
def test_names_say_what_they_hold(module, faults):
    assert not faults[vague.__name__][module]


def test_a_vague_name_is_found():
    assert vague(ast.parse("def f(one, other):\n    return [made for made in other if (got := made)]")) != []
    assert vague(ast.parse("def f(*, found): ...")) == ["line 1: found"]
    assert vague(ast.parse("class Made: ...")) == ["line 1: Made"]
    assert vague(ast.parse("def one(self):\n    self.found: int = 3")) == ["line 1: one", "line 2: found"]
    assert not vague(ast.parse("f(found=1).one"))


# ---------------------------------------------------------------------------------------------------------- docstrings


def bases(definition: ast.ClassDef) -> list[str]:
    """Names of the classes that one is made from, without their modules and parameters."""
    return [ast.unparse(base).partition("[")[0].rpartition(".")[2] for base in definition.bases]


@cache
def classes() -> dict[str, list[ast.ClassDef]]:
    """The classes of all modules by name."""
    named: dict[str, list[ast.ClassDef]] = {}
    for kind in (node for tree in trees().values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
        named.setdefault(kind.name, []).append(kind)
    return named


def documented_by(kind: ast.ClassDef, name: str) -> bool:
    """Whether a class, or one that it is made from, says what the attribute of this name is."""
    for member in kind.body:
        if isinstance(member, ast.FunctionDef) and member.name == name and ast.get_docstring(member):
            return True
        if isinstance(member, ast.AnnAssign) and ast.unparse(member.target) == name:
            return True  # fields are in the docstring of the class
    return inherits(kind, name)


def inherits(kind: ast.ClassDef, name: str) -> bool:
    """Whether a class that this one is made from says it; of classes of one name any."""
    return any(documented_by(base, name) for word in bases(kind) for base in classes().get(word, ()) if base is not kind)


def silent(tree: ast.Module | ast.ClassDef, prefix: str = "") -> Iterator[str]:
    """Public definitions without a docstring, of their own or inherited."""
    for node in tree.body:
        if isinstance(node, Definition) and not node.name.startswith("_"):
            inherited = isinstance(tree, ast.ClassDef) and inherits(tree, node.name)
            overload = any(
                ast.unparse(decorator) == "overload" for decorator in node.decorator_list
            )  # types of one that has it
            if not ast.get_docstring(node) and not inherited and not overload:
                yield f"{prefix}{node.name}"
            if isinstance(node, ast.ClassDef):
                yield from silent(node, f"{node.name}.")


@pytest.mark.parametrize("module", MODULES)
def test_public_definitions_say_what_they_give(module, faults):
    assert faults[silent.__name__][module] == []


def test_a_silent_definition_is_found():
    code = "class A:\n    'Says so.'\n    def f(self): ...\n    def _g(self): ...\ndef h(): ...\ndef i():\n    'Says so.'"
    assert list(silent(ast.parse(code))) == ["A.f", "h"]


# ------------------------------------------------------------------------------------- what docstrings say of parameters

#: "reads: buffers. first, last: rows" at the start of a line or of a sentence.
_ENTRY = re.compile(r"(?:\A|(?<=[.;:]\s)|(?<=\n\n))\s*((?:[a-z_]\w*(?:, | and ))*[a-z_]\w*): ")


def words_of(definition: Definition) -> set[str]:
    """All that a docstring may explain: parameters, fields, attributes, words in quotes; of a class those of its bases too."""
    words = {ast.unparse(node) for node in ast.walk(definition) if isinstance(node, ast.Name)}
    for node in ast.walk(definition):
        words |= {name for name in (getattr(node, key, None) for key in ("arg", "attr", "name")) if isinstance(name, str)}
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
            words.add(node.value)
    if isinstance(definition, ast.ClassDef):
        for base in (base for word in bases(definition) for base in classes().get(word, ()) if base is not definition):
            words |= words_of(base)
    return words


def _takes_others(definition: Definition) -> bool:
    """Whether a function may have parameters that its head doesn't name: any, or those that a decorator gives it."""
    if not isinstance(definition, ast.FunctionDef):
        return False
    return definition.args.kwarg is not None or any(isinstance(node, ast.Call) for node in definition.decorator_list)


def left_over(tree: ast.AST) -> Iterator[str]:
    """Entries of docstrings, such as ``found: the answers``, for what the definition doesn't have."""
    for node in ast.walk(tree):
        if not isinstance(node, Definition) or _takes_others(node):
            continue
        words = words_of(node)
        for entry in _ENTRY.finditer(ast.get_docstring(node) or ""):
            # the first words of a function's docstring are what it gives: "float32: the reals"
            if entry.start() or isinstance(node, ast.ClassDef):
                explained = re.split(r", | and ", entry[1])
                yield from (f"{node.name}: {name}" for name in explained if name not in words)


@pytest.mark.parametrize("module", MODULES)
def test_docstrings_explain_what_is_there(module, faults):
    assert faults[left_over.__name__][module] == []


def test_an_entry_for_what_is_gone_is_found():
    code = "def f(document):\n    '''Lines.\n\n    found: JSON. document: JSON.\n    '''\nclass A:\n    'b: bytes.'\n    c: int"
    assert list(left_over(ast.parse(code))) == ["f: found", "A: b"]
    assert not list(left_over(ast.parse("def f(a, b):\n    'float32: reals. a, b: integers.'")))
