"""The gate: what `check` found in the user's own layers before anything was trained."""

from __future__ import annotations

from src.study.page import numbers as n
from src.study.page.blocks import BAD, GOOD, WARN, Column, Entry, Section, Table
from src.study.page.evidence import Document, Gate

VERDICTS = {"pass": GOOD, "fail": BAD}


def build(document: Document) -> list:
    if not document.gates:
        return []
    rows = [row for gate in document.gates for row in _checks(gate)]
    return [_verdicts(document.gates), *([_table(rows)] if rows else [])]


def _verdicts(gates: list[Gate]) -> Table:
    names = ("pass", "fail", "skipped", "measured")
    columns = (Column("layer"), Column("verdict"), *(Column(name, "number") for name in names))
    rows = tuple(
        (
            f"{gate.model} {gate.flags}".strip(),
            Entry(gate.verdict or n.MISSING, None, VERDICTS.get(gate.verdict, WARN)),
            *(Entry(str(dict(gate.counts).get(name, 0)), dict(gate.counts).get(name, 0)) for name in names),
        )
        for gate in gates
    )
    return Table(
        "gate-verdicts", "Checks of own layers", columns, rows, "Causality, decoding, isolation, numerics, gradients."
    )


def _checks(gate: Gate) -> list[tuple]:
    return [
        (
            gate.model,
            row.name,
            Entry(row.status, None, WARN if row.status == "skipped" else BAD),
            row.measured,
            row.allowed,
            row.note,
        )
        for row in gate.rows
    ]


def _table(rows: list[tuple]) -> Table:
    columns = tuple(Column(name) for name in ("layer", "check", "result", "measured", "allowed", "note"))
    return Table("gate-rows", "Checks that did not pass", columns, tuple(rows))


GATE = Section("gate", "The gate for own layers", build, "no layer of a user's own file was checked")
