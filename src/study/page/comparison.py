"""A folder of `compare`: its plan, summary, verdicts, runs, gate and cost, as parts of a `Document`.

    document = read_comparison(Path("runs/S"))

The tables say what the comparison found; the run directories below `runs/` have the curves and samples. A run directory
that cannot be read becomes a hole with its reason, and the rest is shown. A table that cannot be read is a UserError.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from src.flags.fields import UserError
from src.storage.files import open_sealed, read_json
from src.storage.rundir import RunDir
from src.storage.tables import read_csv
from src.study.page import values as v
from src.study.page.card import NAME as CARD
from src.study.page.card import cards_of
from src.study.page.evidence import (
    Cell,
    Check,
    Difference,
    Document,
    Gate,
    Hole,
    Key,
    Run,
    Share,
    Source,
    Suite,
)
from src.study.page.measured import read_cost
from src.study.page.runs import check_size, read_origin, read_run

FAILED = ("failed", "timeout")
MOST_ROWS = 20_000
AT = "at_"  # the start of a column of scores at a length


def read_comparison(folder: Path) -> Document:
    """All that a folder of `compare` holds. UserError where it is unfinished or damaged, with the file's name."""
    config = open_sealed(folder / "config.json")
    if not (folder / "verdicts.json").is_file():
        raise UserError(f"'{folder}': the comparison is not finished; continue it with the same `compare` command")
    plan, verdicts = sealed(folder / "plan.json"), sealed(folder / "verdicts.json")
    settings = v.part(config, "settings")
    command = v.text(config, "command", v.LONGEST_COMMAND) or v.text(settings, "command", v.LONGEST_COMMAND)
    rows = read_table(folder / "results.csv", ("run", "role", "task", "model", "setting", "status"))
    document = Document(
        sources=[Source("compare", v.shown(str(folder)), command, None, settings)],
        alpha=v.number(verdicts, "alpha"),
        margin=v.number(verdicts, "margin"),
        planned=len(rows),
    )
    planned = {_key(cell): cell for cell in v.records(plan, "cells")}
    document.cells = [
        _cell(row, planned) for row in read_table(folder / "summary.csv", ("task", "model", "setting", "metric"))
    ]
    for row in rows:
        _add_run(document, folder, row)
    _add_verdicts(document, verdicts)
    document.cards = cards_of(sealed(folder / CARD)) if (folder / CARD).is_file() else []
    document.warnings = [(key[1], shown) for key, cell in planned.items() for shown in v.texts(cell, "gate")]
    if (folder / "env.json").is_file():
        document.sources[0] = dataclasses.replace(document.sources[0], origin=read_origin(folder / "env.json"))
    if (folder / "checks.json").is_file():
        document.gates = read_gates(folder / "checks.json")
    if (folder / "speed" / "history.json").is_file():
        document.costs = [read_cost(folder / "speed", v.shown(folder.name))]
    return document


def sealed(path: Path) -> dict:
    """The content of a sealed file of a sensible size."""
    check_size(path)
    return open_sealed(path)


def read_table(path: Path, columns: tuple[str, ...]) -> list[dict]:
    """The rows of a CSV file that has these columns; UserError if it is missing or damaged."""
    check_size(path)
    return [row for _, row in read_csv(path, columns, "run the same `compare` command again", most=MOST_ROWS)]


def _key(row: dict) -> Key:
    """Task, model and setting of a row of a table or of an object."""
    return tuple(v.text(row, name) for name in ("task", "model", "setting"))


# The scoreboard


def _cell(row: dict, planned: dict[Key, dict]) -> Cell:
    """A row of summary.csv, with what the plan knows about its cell."""
    key, number, whole = _key(row), v.cell_number, v.cell_count
    plan = planned.get(key, {})
    return Cell(
        key=key,
        metric=v.text(row, "metric"),
        seeds=tuple(int(seed) for seed in v.cell_numbers(row, "seeds")),
        values=v.cell_numbers(row, "values"),
        holes=whole(row, "holes") or 0,
        success=_success(row),
        rates=tuple(zip(v.cell_numbers(row, "lr_tried"), v.cell_numbers(row, "lr_val"), strict=False)),
        at_edge=v.text(row, "at_edge"),
        diverged=whole(row, "diverged") or 0,
        parameters=whole(row, "parameters"),
        layers=whole(row, "layer_parameters"),
        state_bytes=whole(row, "state_bytes"),
        chars=whole(row, "chars"),
        steps=v.count(plan, "steps"),
        stopped=tuple(int(step) for step in v.cell_numbers(row, "stopped_at")),
        init=v.text(row, "init"),
        pos=v.text(row, "pos"),
        block=v.text(plan, "block"),
        interval=v.text(row, "interval"),
        **{name: number(row, name) for name in ("median", "mean", "low", "high", "scaled", "chance", "ceiling")},
        **{name: number(row, name) for name in ("threshold", "median_steps", "lr", "good_decades")},
    )


def _success(row: dict) -> Share | None:
    """The seeds whose score reaches the threshold, with the interval of the table."""
    threshold, scores = v.cell_number(row, "threshold"), v.cell_numbers(row, "values")
    if threshold is None or not scores:
        return None
    k = sum(score >= threshold for score in scores)
    return Share(k, len(scores), v.cell_number(row, "success_low"), v.cell_number(row, "success_high"))


# Runs


def _add_run(document: Document, folder: Path, row: dict) -> None:
    """The run of a row of results.csv, and a hole where it failed or its directory cannot be read."""
    key, role, status = _key(row), v.text(row, "role"), v.text(row, "status")
    seed, name = v.cell_count(row, "seed"), v.text(row, "run")
    if status in FAILED or status not in ("done", "diverged"):
        why = v.text(row, "why") or "never run"
        why = f"{status}: {why}" if status in FAILED else why
        document.holes.append(Hole(key, seed, role, why, v.cell_number(row, "lr")))
        return
    run = Run(key=key, folder=v.shown(f"{folder}/runs/{name}"), name=name, role=role, status=status, seed=seed)
    try:
        if not re.fullmatch(r"[\w-]{1,80}", name):
            raise UserError("its name in results.csv is not that of a folder")
        run, _ = read_run(RunDir(folder / "runs" / name).path)
    except UserError as error:
        why = v.shown(str(error)).replace("\n", " ")
        document.holes.append(
            Hole(key, seed, role, f"its folder cannot be read ({why}); its score is that of the table")
        )
    document.runs.append(dataclasses.replace(run, key=key, role=role, **_told(row)))


def _told(row: dict) -> dict:
    """What results.csv says about a run: it counts, also where the run directory says otherwise."""
    numbers = {name: v.cell_number(row, name) for name in ("lr", "value", "low", "high", "val_value", "chance")}
    return {name: value for name, value in numbers.items() if value is not None}


# Verdicts


def _add_verdicts(document: Document, verdicts: dict) -> None:
    document.differences = [_difference(pair) for pair in v.records(verdicts, "pairs")]
    document.suite = [
        Suite(v.text(s, "model"), v.text(s, "setting"), value, v.number(s, "low"), v.number(s, "high"), _tasks(s))
        for s in v.records(verdicts, "suite")
        if (value := v.number(s, "iqm")) is not None
    ]
    known = {(hole.key, hole.seed, hole.role, hole.lr) for hole in document.holes}
    for hole in v.records(verdicts, "holes"):
        found = Hole(_key(hole), v.count(hole, "seed"), v.text(hole, "role"), v.text(hole, "why"), v.number(hole, "lr"))
        if (found.key, found.seed, found.role, found.lr) not in known:
            document.holes.append(found)
    document.notes = list(v.texts(verdicts, "notes"))


def _tasks(suite: dict) -> int | None:
    """How many tasks an aggregate is made of: a number, or a list of them."""
    return len(v.items(suite, "tasks")) or v.count(suite, "tasks")


def _difference(pair: dict) -> Difference:
    measure = v.text(pair, "measure")
    return Difference(
        **{name: v.text(pair, name) for name in ("task", "setting", "metric", "a", "b", "method", "verdict")},
        **{name: v.number(pair, name) for name in ("low", "high", "smallest_p", "items_low", "items_high")},
        seeds=tuple(seed for item in v.items(pair, "seeds") if (seed := v.count({"": item}, "")) is not None),
        value=v.number(pair, "difference"),
        p=v.number(pair, "p_adjusted"),
        is_separated=v.flag(pair, "separated"),
        is_headline=v.flag(pair, "headline"),
        length=measure.removeprefix(AT) if measure.startswith(AT) else "",
        improvement=v.number(pair, "improvement"),
        steps=v.count(pair, "within_steps"),
        needed=v.count(pair, "needed_seeds"),
    )


# The gate


def read_gates(path: Path) -> list[Gate]:
    """What `check --json` said about each layer of the user's own."""
    check_size(path)
    document = read_json(path)
    names = list(document)[:100] if isinstance(document, dict) else []
    return [_gate(v.shown(name).replace("\n", " "), v.part(document, name)) for name in names]


def _gate(model: str, found: dict) -> Gate:
    results = v.records(found, "results")
    counts: dict[str, int] = {}
    for row in results:
        counts[v.text(row, "status")] = counts.get(v.text(row, "status"), 0) + 1
    rows = tuple(
        Check(*(v.text(row, name) for name in ("name", "status", "value", "tolerance", "note")))
        for row in results
        if v.text(row, "status") in ("fail", "skipped")
    )
    flags = v.part(found, "flags")
    words = " ".join(f"--{v.shown(name)} {v.text(flags, name)}".strip() for name in flags if name != "model")
    error = v.text(found, "error")
    if error:
        rows = (*rows, Check("check", "error", "", "", error))
    return Gate(model, v.text(found, "verdict"), tuple(counts.items()), rows, v.shown(words))
