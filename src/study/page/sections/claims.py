"""The verdicts of `study`: each claim with what was measured."""

from __future__ import annotations

from src.study.page.blocks import BAD, GOOD, WARN, Column, Entry, Section, Table
from src.study.page.evidence import Document

TONES = {"yes": GOOD, "no": BAD, "undecided": WARN}


def build(document: Document) -> list:
    if not document.claims:
        return []
    columns = tuple(Column(name) for name in ("claim", "model", "verdict", "measured"))
    rows = tuple(
        (claim.question, claim.model, Entry(claim.verdict, None, TONES.get(claim.verdict, "")), claim.words)
        for claim in document.claims
    )
    return [Table("claims-verdicts", "Claims of the study", columns, rows)]


CLAIMS = Section("claims", "Verdicts of the study", build, "no folder of `study` was given")
