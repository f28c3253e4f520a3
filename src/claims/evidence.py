"""From what is stored to evidence: a record of comparisons, finished `compare` folders, and the evidence file itself.

    evidence = of_record("runs/records/findings", "recall")     # runs that are older than the rule
    evidence = of_comparisons([folder, ...], mode)              # of a claim's own runs
    write(path, evidence); read(path)                           # one sealed JSON file per claim

A comparison is first brought into the form of a record (src/study/records.py), so both have one reader.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from src.claims.contract import Evidence, Scores
from src.flags.fields import UserError
from src.storage.files import open_sealed, read_json, seal, write_atomic
from src.study import records

SCHEMA = 1
DIGITS = 6
FACTS = (
    "metric",
    "steps",
    "parameters",
    "state_bytes",
    "chance",
    "lr",
    "lr_tried",
    "lr_val",
    "good_decades",
    "at_edge",
)
MEASURES = ("at_", "test_", "baseline_")  # columns of results.csv besides `value` that a rule may name
NO_MEASURE = ("_low", "_high", "_if_independent")


def of_comparisons(folders: Sequence[Path], mode: str, origin: str = "runs of this command") -> Evidence:
    """The evidence in finished folders of `compare`. UserError for a hole, or a damaged folder."""
    with tempfile.TemporaryDirectory() as temporary:
        records.collect(list(folders), temporary)
        return of_record(temporary, "", mode, origin)


def of_record(folder, name: str, mode: str = "full", origin: str = "") -> Evidence:
    """The evidence in a record: one of its comparisons, all of them without a name, or its single runs.

    UserError for a record that is missing or damaged, and for a comparison that it does not have.
    """
    folder = Path(folder)
    rows = {row["run"]: row for _, row, _ in records.read_runs(folder)}
    machine = _machine(rows.values(), read_json(folder / "env.json"))
    if not (folder / records.COMPARISONS).is_file():
        return Evidence(mode, origin, _single_runs(rows.values()), (), {}, machine)
    comparisons = read_json(folder / records.COMPARISONS)
    if name and name not in comparisons:
        raise UserError(f"'{folder}': got comparison '{name}', allowed: {', '.join(comparisons)}")
    cells, items = [], []
    try:
        for found in [comparisons[name]] if name else comparisons.values():
            cells += [_cell(summary, [rows[run] for run in summary["runs"].split()]) for summary in found["summary"]]
            items += [_item(pair) for pair in found["pairs"] if pair.get("items_low") is not None]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"'{folder}' is damaged ({error!r}); restore it, or collect the record again") from error
    return Evidence(mode, origin, tuple(cells), tuple(items), {}, machine)


def _cell(summary: Mapping, rows: Sequence[Mapping]) -> Scores:
    facts = {key: summary[key] for key in FACTS if summary.get(key) is not None}
    seeds = tuple(int(row["seed"]) for row in rows)
    return Scores(summary["task"], summary["model"], summary["setting"], seeds, _measures(rows, facts["chance"]), facts)


def _single_runs(rows) -> tuple[Scores, ...]:
    """The cells of a record without comparisons: runs of one task and model."""
    by_cell: dict[tuple, list] = {}
    for row in rows:
        by_cell.setdefault((row["task"], row["model"]), []).append(row)
    found = []
    for (task, model), group in by_cell.items():
        chance = max((float(v) for k, v in group[0].items() if k.startswith("chance_") and v), default=0.0)
        facts = {"metric": group[0]["metric"], "chance": chance}
        facts |= {key: int(group[0][key]) for key in ("steps", "parameters", "state_bytes") if group[0][key]}
        seeds = tuple(int(row["seed"]) for row in group)
        found.append(Scores(task, model, "", seeds, _measures(group, chance), facts))
    return tuple(found)


def _measures(rows: Sequence[Mapping], chance: float) -> dict[str, tuple[float | None, ...]]:
    """{column: one value per row}. A run that diverged has the score of chance, and no loss."""
    names = ["value", *(k for k in rows[0] if k.startswith(MEASURES) and not k.endswith(NO_MEASURE))]
    found = {name: tuple(_number(row, name, chance) for row in rows) for name in names}
    return {name: values for name, values in found.items() if any(v is not None for v in values)}


def _number(row: Mapping, name: str, chance: float) -> float | None:
    if row["status"] == "diverged" and (name == "value" or name.startswith("at_")):
        return chance
    try:
        value = float(row.get(name) or "nan")
    except ValueError:  # "undefined"
        return None
    return value if math.isfinite(value) else None


def _item(pair: Mapping) -> dict:
    """The interval of one pair over test sequences."""
    named = {key: pair[key] for key in ("task", "setting", "a", "b", "measure")}
    return {**named, "low": pair["items_low"], "high": pair["items_high"]}


def _machine(rows, machines: Mapping) -> dict:
    """Commit and machine of the runs."""
    rows = list(rows)
    commits = sorted({row["commit"] for row in rows if row.get("commit")})
    dirty = sorted({row["dirty"] for row in rows if row.get("dirty")})
    return {"commits": commits, "dirty": dirty, "machines": sorted(machines)}


# The evidence file


def to_document(claim: str, evidence: Evidence) -> dict:
    """The content of an evidence file, without its seal. Numbers keep six significant digits."""
    cells = [
        {
            "task": c.task,
            "model": c.model,
            "setting": c.setting,
            "seeds": list(c.seeds),
            "measures": {k: list(v) for k, v in c.measures.items()},
            "facts": dict(c.facts),
        }
        for c in evidence.cells
    ]
    document = {
        "schema": SCHEMA,
        "kind": "claim",
        "claim": claim,
        "mode": evidence.mode,
        "origin": evidence.origin,
        "cells": cells,
        "items": list(evidence.items),
        "numbers": evidence.numbers,
        "from": evidence.machine,
    }
    return _rounded(json.loads(json.dumps(document, allow_nan=False)))


def write(path: Path, claim: str, evidence: Evidence) -> None:
    """Write an evidence file, whole or not at all: one line per cell, so that a record stays short."""
    document = seal(to_document(claim, evidence))
    lines = [f"{json.dumps(key)}: {_lines(value)}" for key, value in document.items()]
    write_atomic(path, ("{" + ",\n ".join(lines) + "}\n").encode("ascii"))


def _lines(value) -> str:
    if isinstance(value, list) and value:
        return "[\n  " + ",\n  ".join(json.dumps(item) for item in value) + "]"
    return json.dumps(value)


def read(path: Path, claim: str = "") -> Evidence:
    """The evidence in a file. UserError where it is missing, was edited, or is of another claim."""
    document = open_sealed(path)
    if document.get("schema") != SCHEMA or document.get("kind") != "claim" or claim not in ("", document["claim"]):
        raise UserError(f"'{path}': got no evidence of claim '{claim}', allowed: a file that `claims` wrote for it")
    cells = tuple(
        Scores(
            c["task"],
            c["model"],
            c["setting"],
            tuple(c["seeds"]),
            {k: tuple(v) for k, v in c["measures"].items()},
            c["facts"],
        )
        for c in document["cells"]
    )
    return Evidence(
        document["mode"], document["origin"], cells, tuple(document["items"]), document["numbers"], document["from"]
    )


def _rounded(value):
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value
