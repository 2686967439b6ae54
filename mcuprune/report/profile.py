"""What was measured, written for people and for programs: text, markdown, html, json, junit, github annotations.

Everything here takes numbers and gives a string; nothing prints. A format is a module: ``plain``, ``markdown``, ``pages``
(HTML), ``documents`` (JSON), ``ci`` (JUnit and annotations); ``FORMATS`` has them by name. What they write is in ``answers``,
and the words that several share in ``wording``. Names come from a stranger's file: ``escape`` has a way for each format.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mcuprune.report.answers import BY as BY
from mcuprune.report.answers import Answer as Answer
from mcuprune.report.answers import Device as Device
from mcuprune.report.answers import Refused as Refused
from mcuprune.report.answers import Report as Report
from mcuprune.report.answers import Section as Section
from mcuprune.report.answers import View as View
from mcuprune.report.answers import device as device
from mcuprune.report.answers import table as table
from mcuprune.report.ci import annotation as annotation
from mcuprune.report.ci import github as github
from mcuprune.report.ci import junit as junit
from mcuprune.report.documents import dumped as dumped
from mcuprune.report.documents import json as json
from mcuprune.report.documents import models as models
from mcuprune.report.documents import profile_document as profile_document
from mcuprune.report.markdown import markdown as markdown
from mcuprune.report.pages import html as html
from mcuprune.report.pages import html_body as html_body
from mcuprune.report.pictures import chart as chart
from mcuprune.report.pictures import svg as svg
from mcuprune.report.plain import text as text
from mcuprune.report.tables import align as align
from mcuprune.report.tables import html_table as html_table
from mcuprune.report.tables import markdown_page as markdown_page
from mcuprune.report.tables import markdown_table as markdown_table
from mcuprune.report.tables import plain_page as plain_page
from mcuprune.report.wording import both as both
from mcuprune.report.wording import hint as hint
from mcuprune.report.wording import in_words as in_words

#: What ``--format`` takes.
FORMATS: Mapping[str, Callable[[Report], str]] = {
    "text": text,
    "markdown": markdown,
    "html": html,
    "json": json,
    "junit": junit,
    "github": github,
}
