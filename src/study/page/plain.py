"""The tables of the page as Markdown, for an issue, and the scoreboard as a LaTeX table, for a paper."""

from __future__ import annotations

import re

from src.study.page.blocks import Entry, Table, tables_of
from src.study.page.evidence import Document
from src.study.page.html import sentences
from src.study.page.sections import SECTIONS
from src.study.page.sections.scoreboard import scores, terms

# What LaTeX would read as an instruction, and the few signs that the tables use beyond ASCII.
LATEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "–": "--",
    "…": r"\ldots{}",
    "�": "?",
}


def markdown(document: Document) -> str:
    """The answer and the tables that hold results."""
    lines = [f"- {escaped(sentence)}" for sentence in sentences(document)]
    for section in SECTIONS:
        for table in tables_of(section.build(document)):
            if table.is_result:
                lines += ["", f"**{escaped(table.caption)}**", "", *_markdown_table(table)]
    return "\n".join(lines)


def _markdown_table(table: Table) -> list[str]:
    lines = [_line([escaped(column.name) for column in table.columns])]
    lines.append(_line(["---:" if column.kind == "number" else "---" for column in table.columns]))
    lines += [_line([escaped(_text(value)) for value in row]) for row in table.rows]
    return [*lines, "", escaped(table.note)] if table.note else lines


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def escaped(text: str) -> str:
    """The text so that Markdown shows it as it is, on one line."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\n", " ")
    return re.sub(r"([\\`*_\[\]|~@#])", r"\\\1", text)


def latex(document: Document) -> str:
    """The scoreboard and the terms as tables of the package booktabs."""
    if not document.cells:
        return ""
    return "\n\n".join(_latex_table(table) for table in (scores(document), terms(document)))


def _latex_table(table: Table) -> str:
    align = "".join("r" if column.kind == "number" else "l" for column in table.columns)
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\begin{{tabular}}{{{align}}}",
        r"\toprule",
    ]
    lines += [_latex_row([column.name for column in table.columns]), r"\midrule"]
    lines += [_latex_row([_text(value) for value in row]) for row in table.rows]
    caption = f"{table.caption}. {table.note}".strip()
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", rf"\caption{{{_latex(caption)}}}", r"\end{table}"])


def _latex_row(cells: list[str]) -> str:
    return " & ".join(_latex(cell) for cell in cells) + r" \\"


def _latex(text: str) -> str:
    return "".join(LATEX.get(c, c) for c in text.replace("\n", " "))


def _text(value: Entry | str) -> str:
    return value.text if isinstance(value, Entry) else value
