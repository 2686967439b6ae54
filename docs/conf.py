"""The site: Markdown of docs/, CHANGELOG.md, CONTRIBUTING.md and the pages of benchmarks, where they lie in the repository.

The source folder is the root of the repository (``sphinx-build -c docs . out/site``), so that a link works on the site and in
a browser of the repository alike.
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import mcuprune  # noqa: E402

project = "mcuprune"
version = release = mcuprune.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
root_doc = "docs/index"
include_patterns = ["docs/**/*.md", "docs/*.md", "tests/benchmarks/*.md", "models/README.md", "CHANGELOG.md", "CONTRIBUTING.md"]
exclude_patterns = ["**/.*", "out", "data", "build", "dist", "**/__pycache__"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "mcuprune"
html_theme_options = {"navigation_with_keys": True}
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"

suppress_warnings = ["ref.python"]  # two classes may have a field of one name

#: Where ``docs/reference.md`` wants the names of the package.
FACE = "<!-- face -->"


def face() -> str:
    """The public names of the package as directives: all that ``__all__`` lists, whatever that is, imported late or not."""
    sections: dict[str, list[str]] = {"Functions": [], "Classes": [], "Errors": [], "Other": []}
    for name in getattr(mcuprune, "__all__", []):
        value = getattr(mcuprune, name)
        if name.startswith("__") or inspect.ismodule(value):
            continue
        kind = "class" if inspect.isclass(value) else "function" if inspect.isroutine(value) else "data"
        is_error = kind == "class" and issubclass(value, BaseException)
        section = "Errors" if is_error else {"class": "Classes", "function": "Functions", "data": "Other"}[kind]
        members = ["   :members:", "   :undoc-members:"] if section == "Classes" else []
        sections[section] += [f"### {name}", "", "```{eval-rst}", f".. auto{kind}:: mcuprune.{name}", *members, "```", ""]
    lines = [line for section, of in sections.items() if of for line in (f"## {section}", "", *of)]
    return "\n".join(lines) if lines else "This release has no public names; use the commands."


def _filled(app: Any, docname: str, source: list[str]) -> None:
    source[0] = source[0].replace(FACE, face())


def prose(lines: list[str]) -> list[str]:
    """A docstring as reStructuredText: ours indent what goes on from the line before, which means a quotation there.

    A bar or a single asterisk, as in |x| and (n, *shape), is only itself.
    """
    straight: list[str] = []
    listed = False  # inside a list, where what goes on is indented rightly
    for line in lines:
        listed = bool(re.match(r"\s*([*-]|\d+\.|>>>) ", line)) or (listed and bool(line.strip()))
        goes_on = bool(straight) and bool(straight[-1].strip()) and not straight[-1].startswith(" ")
        straight.append(_plain(line.lstrip() if goes_on and not listed else line))
    return straight


def _plain(line: str) -> str:
    parts = re.split(r"(``.*?``)", line)
    for index in range(0, len(parts), 2):
        parts[index] = parts[index].replace("|", r"\|")
        if len(re.findall(r"(?<!\*)\*(?=\w)", parts[index])) % 2 and "**" not in parts[index]:
            parts[index] = re.sub(r"(?<!\*)\*(?=\w)", r"\\*", parts[index])
    return "".join(parts)


def _docstring(app: Any, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    lines[:] = prose(lines)


def _entrance(app: Any, error: Exception | None) -> None:
    """The root of the site leads to its first page."""
    if error is None:
        first = f"{root_doc}.html"
        refresh = f'<meta http-equiv="refresh" content="0; url={first}">'
        page = f'<!doctype html><title>{project}</title>{refresh}<a href="{first}">{project}</a>\n'
        (Path(app.outdir) / "index.html").write_text(page)


def setup(app: Any) -> None:
    app.connect("source-read", _filled)
    app.connect("autodoc-process-docstring", _docstring)
    app.connect("build-finished", _entrance)
