"""What a section of the page is made of. The template draws each kind of block; tables are also Markdown and LaTeX.

A section is a file in src/study/page/sections with one `Section`, and a line in the table there. All texts are plain:
the template escapes them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from src.study.page.evidence import Document

GOOD, BAD, WARN = "good", "bad", "warn"
ISOLATE, END = "\u2068", "\u2069"


def named(text: str) -> str:
    """A name inside a sentence, between the Unicode marks that isolate it. No text from a folder has such marks."""
    return f"{ISOLATE}{text}{END}"


def unmarked(sentence: str) -> str:
    """The sentence without the marks of names."""
    return sentence.replace(ISOLATE, "").replace(END, "")


@dataclass(frozen=True)
class Entry:
    """A cell of a table. sort: its place when the column is sorted, if that is not its text.  tone: GOOD, BAD, WARN.

    The tone is a colour beside words that say the same.
    """

    text: str
    sort: float | None = None
    tone: str = ""


@dataclass(frozen=True)
class Column:
    """A column. kind: `text`, `number` (right-aligned) or `code` (samples: a fixed width, line breaks kept)."""

    name: str
    kind: str = "text"


@dataclass(frozen=True)
class Table:
    """rows: an Entry or a text per column; the first column names the row.  folded: shown closed until it is asked for.

    is_result: the table belongs into `--markdown`.  group: a column whose values become headings in the table; 0: none.
    """

    key: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Entry | str, ...], ...]
    note: str = ""
    folded: bool = False
    is_result: bool = True
    group: int = 0
    kind: str = field(default="table", init=False)

    def shown_columns(self) -> tuple[Column, ...]:
        """The columns of the page, where a group is a heading of its own."""
        return self._without_group(self.columns)

    def groups(self) -> list[tuple[str, list[tuple]]]:
        """(heading, rows without the column of the group), in the order of the rows; one group without a heading."""
        found: dict[str, list[tuple]] = {}
        for row in self.rows:
            heading = row[self.group] if self.group else ""
            found.setdefault(heading.text if isinstance(heading, Entry) else heading, []).append(row)
        return [(heading, [self._without_group(row) for row in rows]) for heading, rows in found.items()]

    def _without_group(self, row: tuple) -> tuple:
        return row[: self.group] + row[self.group + 1 :] if self.group else row


@dataclass(frozen=True)
class Figure:
    """A drawing with the numbers behind it. svg: of src/study/page/chart.py, which has escaped its texts."""

    key: str
    caption: str
    svg: str
    table: Table
    kind: str = field(default="figure", init=False)


@dataclass(frozen=True)
class Gallery:
    """Small figures that share a legend, under one heading. legend: (place among the models, label)."""

    heading: str
    figures: tuple[Figure, ...]
    legend: tuple[tuple[int, str], ...] = ()
    note: str = ""
    kind: str = field(default="gallery", init=False)


@dataclass(frozen=True)
class Sentence:
    """A sentence of the answer, with the place on the page that it rests on."""

    text: str
    target: str
    target_words: str


@dataclass(frozen=True)
class Answer:
    sentences: tuple[Sentence, ...]
    kind: str = field(default="answer", init=False)


@dataclass(frozen=True)
class Notes:
    """A heading, and below it a list of sentences."""

    heading: str
    sentences: tuple[str, ...]
    kind: str = field(default="notes", init=False)


@dataclass(frozen=True)
class Commands:
    """Command lines to paste."""

    heading: str
    lines: tuple[str, ...]
    kind: str = field(default="commands", init=False)


@dataclass(frozen=True)
class Heading:
    """A heading inside a section."""

    text: str
    kind: str = field(default="heading", init=False)


@dataclass(frozen=True)
class Section:
    """build: from the document to blocks, [] where there is nothing to say.  absent: why there is nothing."""

    key: str
    title: str
    build: Callable[[Document], list]
    absent: str
    lead: str = ""


def tables_of(blocks: list) -> list[Table]:
    """The tables of a section, without those behind a figure."""
    return [block for block in blocks if isinstance(block, Table)]
