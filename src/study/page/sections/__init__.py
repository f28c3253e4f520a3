"""The sections of the page, one file each, and the table of them in the order of the page.

A new section is a file with a `Section` (src/study/page/blocks.py), and a line in SECTIONS. It reads the document and
returns blocks; contents, links, `--markdown` and styles follow by themselves.
"""

from __future__ import annotations

from src.study.page.blocks import Section
from src.study.page.sections import answer, card, claims, cost, gate, limits, provenance, rates, scoreboard, tasks

SECTIONS: tuple[Section, ...] = (
    card.CARD,
    answer.ANSWER,
    scoreboard.SCOREBOARD,
    tasks.TASKS,
    rates.RATES,
    cost.COST,
    claims.CLAIMS,
    gate.GATE,
    limits.LIMITS,
    provenance.PROVENANCE,
)
