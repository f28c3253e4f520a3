"""The card's recorded baselines as evidence: a claim whose runs are rows of the suite does not run them again.

    evidence = of_baselines(claim)          # None where a layer, a row or a measure is missing
    why = stale(claim)                      # "" where the same commands would give these runs today

`Claim.rows` names the row of the suite for each task of the claim. Each layer has one sealed file in runs/records/core,
with a list of rows and a list of runs. UserError for a file that was edited.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from src.claims.contract import FULL, Claim, Evidence, Scores
from src.storage.files import open_sealed
from src.study.records import PROJECT

FOLDER = PROJECT / "runs" / "records" / "core"
ORIGIN = "baselines of the card"
FACTS = ("metric", "steps", "parameters", "state_bytes", "chance", "lr")
SUITE = "core"


def of_baselines(claim: Claim, folder: Path = FOLDER) -> Evidence | None:
    """The evidence of a claim in the tables of the card; None where they do not hold all of it."""
    cells, commits, machines = [], set(), set()
    for model in claim.models if claim.rows else ():
        path = folder / f"{re.sub(r'[^A-Za-z0-9_.]+', '-', model)}.json"
        if not path.is_file():
            return None
        table = open_sealed(path)
        origins = [dict(zip(table["row_columns"], row, strict=True)) for row in table["rows"]]
        for task, row in claim.rows:
            cell = _cell(table, task, row, model)
            if cell is None:
                return None
            cells.append(cell)
            made = next(origin for origin in origins if origin["row"] == row)
            commits |= set((made.get("commit") or "").split(" and "))
            machines |= set((made.get("processor") or "").split(" and "))
    if not cells:
        return None
    machine = {"commits": sorted(commits - {""}), "machines": sorted(machines - {""})}
    return Evidence(FULL, ORIGIN, tuple(cells), (), {}, machine)


def stale(claim: Claim, folder: Path = FOLDER) -> str:
    """Why recorded runs of a claim are not valid any more, of the first that is not; "" where all are.

    The probes of src/study/card/validity.py take a few seconds. UserError for a file that was edited.
    """
    from src.study.card.baselines import read_tables
    from src.study.card.suite import read_suite
    from src.study.card.validity import VALID, check_baselines

    suite = read_suite(SUITE)
    names = [row for _, row in claim.rows]
    tables = {label: table for label, table in read_tables(folder, suite).items() if label in claim.models}
    found = check_baselines(suite, tables, [row for row in suite.rows if row.name in names])
    wrong = [(label, found[label, name]) for label in claim.models for name in names]
    return next((f"{label}: {status.why}" for label, status in wrong if status.word != VALID), "")


def _cell(table: Mapping, task: str, row: str, model: str) -> Scores | None:
    """The runs of one layer on one row; None where it has none."""
    runs = [dict(zip(table["run_columns"], run, strict=True)) for run in table["runs"]]
    runs = [run for run in runs if run["row"] == row]
    if not runs:
        return None
    facts = {key: runs[0][key] for key in FACTS if runs[0].get(key) is not None}
    facts |= _rates(table, row)
    measures = {"value": tuple(run["value"] for run in runs)}
    if all(run.get("at_mean") is not None for run in runs):
        measures["at_mean"] = tuple(run["at_mean"] for run in runs)
    lengths = [dict(pair.split("=", 1) for pair in (run.get("lengths") or "").split()) for run in runs]
    for length in lengths[0]:
        values = [found.get(length, "undefined") for found in lengths]
        measures[f"at_{length}"] = tuple(None if v == "undefined" else float(v) for v in values)
    return Scores(task, model, "", tuple(run["seed"] for run in runs), measures, facts)


def _rates(table: Mapping, row: str) -> dict:
    """The rate of a row and whether it is the lowest or highest that was tried."""
    (found,) = [f for r in table["rows"] if (f := dict(zip(table["row_columns"], r, strict=True)))["row"] == row]
    tried = [float(pair.split("=")[0]) for pair in found["tried"].split()]
    edge = len(tried) > 1 and found["lr"] in (min(tried), max(tried))
    return {"lr": found["lr"], "lr_tried": found["tried"], "at_edge": "yes" if edge else "no"}
