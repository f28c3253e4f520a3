"""From a document to the text of the page: the template page.html, with the style and the script inside.

The policy in the page's head allows this one style and this one script, by their digests, and no address at all. So a
text from a folder can neither run nor load anything, even if an escape were forgotten.
"""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from src.study.page.blocks import END, ISOLATE, Answer, Entry, named, unmarked
from src.study.page.chart import swatch
from src.study.page.evidence import Document
from src.study.page.numbers import counted, listed
from src.study.page.sections import SECTIONS
from src.study.page.sections.answer import ANSWER

HERE = Path(__file__).parent
MARK = '<meta name="generator" content="sequence bench report">'
KINDS = {"compare": "comparison", "study": "study", "speed": "record of speed", "train": "run"}
PLURALS = {"study": "studies", "speed": "records of speed"}
MOST_IN_TITLE = 3
FLAG = re.compile(r"--\w{1,40}\b")
ONE_LINE = 26  # characters of a cell that is not broken


def render(document: Document) -> str:
    """The whole page."""
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["names"] = names
    environment.globals |= {"swatch": lambda look: Markup(swatch(look)), "svg": Markup, "short": short}
    style, script = ((HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    built = [(section, section.build(document)) for section in SECTIONS]
    return environment.get_template("page.html").render(
        mark=Markup(MARK),
        policy=policy(style, script),
        style=Markup(style),
        script=Markup(script),
        title=unmarked(title(document)),
        heading=title(document),
        about=about(document),
        shown=[(section, blocks) for section, blocks in built if blocks],
        absent=[section for section, blocks in built if not blocks],
    )


def names(sentence: str) -> Markup:
    """A text with an element around each marked name, each `word` of the program, and each flag.

    A flag must not break at its hyphens.
    """
    safe = escape(sentence).replace(ISOLATE, Markup("<b>")).replace(END, Markup("</b>"))
    safe = re.sub(r"`([^`<>]+)`", r"<code>\1</code>", str(safe))
    return Markup(re.sub(FLAG, r'<span class="flag">\g<0></span>', safe))


def short(value: Entry | str) -> str:
    """A class for a cell that stays on one line: a name must not break at its hyphens."""
    text = value.text if isinstance(value, Entry) else value
    return " short" if len(text) <= ONE_LINE else ""


def policy(style: str, script: str) -> str:
    """The content security policy: nothing but this style and this script."""
    digests = [base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode() for text in (style, script)]
    return (
        f"default-src 'none'; style-src 'sha256-{digests[0]}'; script-src 'sha256-{digests[1]}'; base-uri 'none'; "
        "form-action 'none'"
    )


def title(document: Document) -> str:
    """'deltanet, gru and mamba on copy and recall', or 'Capability card of my_layer', with marked names."""
    if document.cards:
        return f"Capability card of {listed((named(card.model) for card in document.cards), MOST_IN_TITLE)}"
    models = dict.fromkeys(cell.model for cell in document.cells)
    models |= dict.fromkeys(model for cost in document.costs for model in cost.models) if not models else {}
    names = listed(map(named, models), MOST_IN_TITLE)
    tasks = listed(map(named, document.tasks()), MOST_IN_TITLE)
    return f"{names} on {tasks}" if tasks else f"Cost of {names}"


def about(document: Document) -> str:
    """'From 1 comparison and 2 runs. 36 runs were read.'"""
    kinds = [source.kind for source in document.sources]
    found = [
        counted(kinds.count(kind), word, PLURALS.get(kind, "")) for kind, word in KINDS.items() if kinds.count(kind)
    ]
    read = f" {counted(len(document.runs), 'training run')} in it." if document.runs else ""
    return f"Made from {listed(found)}.{read}"


def sentences(document: Document) -> list[str]:
    """The sentences of the answer, as the command prints them."""
    answers = [block for block in ANSWER.build(document) if isinstance(block, Answer)]
    return [unmarked(sentence.text) for answer in answers for sentence in answer.sentences]
