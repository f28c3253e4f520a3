"""The card's recorded baselines as evidence: a claim whose runs are rows of the suite does not run them again.

    evidence = of_baselines(claim)          # None where a layer, a row or a measure is missing
    why = stale(claim)                      # "" where the same commands would give these runs today

`Claim.rows` names the row of the suite for each task of the claim. Each layer has one sealed file in runs/records/core,
with a list of rows and a list of runs. UserError for a file that was edited.
"""

from __future__ import annotations

from pathlib import Path

from src.claims.contract import FULL, Claim, Evidence, Scores
from src.study.card.baselines import Table, read_tables
from src.study.card.suite import read_suite
from src.study.records import PROJECT

FOLDER = PROJECT / "runs" / "records" / "core"
ORIGIN = "baselines of the card"
FACTS = ("metric", "steps", "parameters", "state_bytes", "chance")
SUITE = "core"


def of_baselines(claim: Claim, folder: Path = FOLDER) -> Evidence | None:
    """The evidence of a claim in the tables of the card; None where they do not hold all of it."""
    if not claim.rows:
        return None
    tables = read_tables(folder, read_suite(SUITE), claim.models)
    rows = [row for _, row in claim.rows]
    if any(model not in tables or not {*rows} <= tables[model].rows.keys() for model in claim.models):
        return None
    cells = tuple(_cell(tables[model], task, row) for model in claim.models for task, row in claim.rows)
    machine = {"commits": _origins(tables, rows, "commit"), "machines": _origins(tables, rows, "processor")}
    return Evidence(FULL, ORIGIN, cells, (), {}, machine)


def stale(claim: Claim, folder: Path = FOLDER) -> str:
    """Why recorded runs of a claim are not valid any more, of the first that is not; "" where all are.

    The probes of src/study/card/validity.py take a few seconds. UserError for a file that was edited.
    """
    from src.study.card.validity import VALID, check_baselines

    suite = read_suite(SUITE)
    names = [row for _, row in claim.rows]
    tables = read_tables(folder, suite, claim.models)
    found = check_baselines(suite, tables, [suite.row(name) for name in names])
    wrong = [(label, found[label, name]) for label in claim.models for name in names]
    return next((f"{label}: {status.why}" for label, status in wrong if status.word != VALID), "")


def _origins(tables: dict[str, Table], rows: list[str], name: str) -> list[str]:
    """Where the runs of these rows come from. A row that was made in several places says 'a and b'."""
    found = {part for table in tables.values() for row in rows for part in table.rows[row][name].split(" and ")}
    return sorted(found - {""})


def _cell(table: Table, task: str, row: str) -> Scores:
    """The runs of one layer on one row."""
    facts, runs = table.rows[row], [run for run in table.runs if run["row"] == row]
    measures = {"value": tuple(run["value"] for run in runs)}
    if all(run["at_mean"] is not None for run in runs):
        measures["at_mean"] = tuple(run["at_mean"] for run in runs)
    for length in runs[0]["lengths"]:
        values = [run["lengths"].get(length, "undefined") for run in runs]
        measures[f"at_{length}"] = tuple(None if value == "undefined" else value for value in values)
    shown = {key: runs[0][key] for key in FACTS if runs[0].get(key) is not None}
    shown |= {"lr": facts["lr"], "at_edge": "yes" if _is_at_edge(facts["lr"], facts["tried"]) else "no"}
    return Scores(task, table.label, "", tuple(run["seed"] for run in runs), measures, shown)


def _is_at_edge(rate: float, tried) -> bool:
    return len(tried) > 1 and rate in (min(tried), max(tried))
