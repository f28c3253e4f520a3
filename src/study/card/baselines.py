"""The recorded runs of the published layers: one sealed file per layer, one line per run.

    tables = read_tables(suite.folder, suite)          # {label: Table}; UserError for a file that was edited
    table.scores["recall"]                             # {seed: Score}
    found = open_folder("runs/core/recall/gru", row, "gru")      # a folder that `card --remake` makes: ROW/LAYER
    write_table(suite.folder, table)

A file holds the runs on fresh seeds with the scores of the card, the learning rates that were tried, and what says
whether it is still valid (src/study/card/validity.py): digests of the data and of the flags of each row, and a probe of
the code. Each row says which commit and which kind of processor made its runs, because rows may be made one after the
other. A file has no path and no name of a machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from src.flags.fields import UserError
from src.storage.files import json_bytes, open_sealed, seal, write_atomic
from src.study.card.scores import DATA_DIGITS, Score, beyond_column, score_of
from src.study.card.suite import BEYOND, Row, Suite, file_name
from src.study.comparison.stored import open_stored, read_rows

SCHEMA = 2
REMAKE = "`card --remake` makes it anew"
RUN_COLUMNS = (
    *("row", "seed", "lr", "status", "metric", "value", "low", "high", "chance", "ceiling", "scaled"),
    *("at_mean", "at_mean_low", "at_mean_high", "at_mean_scaled", "lengths", "data_digest"),
    *("solved_at", "steps", "best_step", "parameters", "layer_parameters", "state_bytes", "train_s"),
)
ORIGIN = {"commit": "commit", "dirty": "dirty", "processor": "machine", "versions": "versions"}  # {ours: of a run}
ROW_COLUMNS = ("row", "task", "metric", "lr", "tried", "data", "flags", *ORIGIN)
DIGITS = 6  # significant digits of a number in a table


@dataclass(frozen=True)
class Table:
    """The runs of one published layer.

    runs: rows of RUN_COLUMNS.  rows: {row: its ROW_COLUMNS}, where tried is {learning rate: score on val}.
    protocol: of Suite.protocol_digest.  probe: losses and scores (src/study/card/validity.py).  names: the flags that
    `flags` covers.
    """

    label: str
    suite: str
    protocol: str
    probe: tuple[float | None, ...]
    names: tuple[str, ...]
    rows: dict[str, dict]
    runs: tuple[dict, ...]

    def scores(self, row: Row) -> dict[int, Score]:
        """{seed: its score} in a row; empty where the layer has no run of it."""
        return {run["seed"]: score_of(run, row.measure) for run in self.runs if run["row"] == row.name}

    def document(self) -> dict:
        """What the file holds, without its digest."""
        return {
            "schema": SCHEMA,
            "kind": "baseline",
            "suite": self.suite,
            "layer": self.label,
            "protocol": self.protocol,
            "probe": list(self.probe),
            "flag_names": " ".join(self.names),
            "row_columns": list(ROW_COLUMNS),
            "rows": [[_flat(found[name]) for name in ROW_COLUMNS] for found in self.rows.values()],
            "run_columns": list(RUN_COLUMNS),
            "runs": [[_flat(run.get(name)) for name in RUN_COLUMNS] for run in self.runs],
        }


def records_of(suite: Suite, given: str = "") -> Path:
    """The folder of the records: the one that --baselines gives, or that of the suite."""
    return Path(given) if given else suite.folder


def path_of(folder: Path, label: str) -> Path:
    """The file of a layer."""
    return Path(folder) / f"{file_name(label)}.json"


def write_table(folder: Path, table: Table) -> Path:
    """Write the file of a layer, whole or not at all."""
    path = path_of(folder, table.label)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json_bytes(seal(table.document())))
    return path


def read_tables(folder: Path, suite: Suite, labels: Iterable[str] = ()) -> dict[str, Table]:
    """{label: table} of the layers that have a file. UserError for one that was edited, or belongs to another suite."""
    found = {}
    for label in labels or suite.layers:
        path = path_of(folder, label)
        if path.is_file():
            found[label] = read_table(path, label, suite)
    return found


def read_table(path: Path, label: str, suite: Suite) -> Table:
    """The table of one layer. UserError where its content does not match its digest, or is not that of this layer."""
    try:
        document = open_sealed(path)
    except UserError as error:
        what = "was edited or damaged, its content does not match its digest"
        raise UserError(f"baseline '{path}': {what}; restore it, or {REMAKE}") from error
    stored = document.get("kind"), document.get("suite"), document.get("layer"), document.get("schema")
    if stored != ("baseline", suite.name, label, SCHEMA):
        raise UserError(
            f"baseline '{path}': got a table of {document.get('layer')!r:.60} in suite {document.get('suite')!r:.60}, "
            f"allowed: '{label}' in '{suite.name}'; {REMAKE}"
        )
    rows = [dict(zip(document["row_columns"], row, strict=True)) for row in document["rows"]]
    runs = [dict(zip(document["run_columns"], row, strict=True)) for row in document["runs"]]
    return Table(
        label=label,
        suite=suite.name,
        protocol=document["protocol"],
        probe=tuple(document["probe"]),
        names=tuple(document["flag_names"].split()),
        rows={row["row"]: {**row, "tried": _tried(row["tried"])} for row in rows},
        runs=tuple({**run, "lengths": _lengths(run["lengths"])} for run in runs),
    )


# From folders of `compare`


@dataclass(frozen=True)
class Found:
    """A finished folder of one row and one layer.

    facts: columns of ROW_COLUMNS that the folder tells.  words: the command line of `train` of its first run.
    tuning_seed: on which the learning rates were tried.  codes: digests of the code that the runs used.
    """

    facts: dict
    runs: tuple[dict, ...]
    words: str
    tuning_seed: int = 0
    codes: frozenset[str] = frozenset()


def open_folder(folder: Path, row: Row, label: str) -> Found:
    """The runs in a folder of `compare` with one task and one model. UserError where it is unfinished or another's."""
    stored = open_stored(folder)
    (summary, *others) = stored.document["summary"]
    if others or summary["model"] != label:
        raise UserError(f"'{folder}' is a comparison of {summary['model']}, allowed: one of '{label}' alone")
    rows = read_rows(folder / "results.jsonl")
    fresh = [found for found in rows if found["role"] == "report"]
    first = fresh[0]
    tried = {rate["lr"]: rate["val_value"] for rate in stored.document["rates"]}
    facts = {"row": row.name, "metric": first["metric"], "lr": first["lr"], "tried": tried, **origin_of(fresh)}
    return Found(
        facts,
        tuple(_run(row, found) for found in fresh),
        first["flags"],
        stored.document["tuning_seed"],
        frozenset(str(found.get("code_digest") or "") for found in rows),
    )


def _run(row: Row, found: Mapping) -> dict:
    """A row of RUN_COLUMNS from a row of results.jsonl. With one length beyond training, at_mean is the score there."""
    columns = [name for name in found if name.startswith("at_") and name[3:].isdigit() and found[name] is not None]
    beyond = beyond_column(found)
    means = {f"{BEYOND}{end}": found.get(f"{beyond}{end}") for end in ("", "_low", "_high", "_scaled")}
    run = {name: found.get(name) for name in RUN_COLUMNS} | means
    digest = str(found.get("data_digest") or "")[:DATA_DIGITS]
    lengths = {name[3:]: found[name] for name in columns}
    return {**run, "row": row.name, "data_digest": digest, "lengths": lengths}


def origin_of(runs: Iterable[Mapping]) -> dict[str, str]:
    """The columns of ORIGIN, from rows of results.jsonl. Runs may have several origins: 'a and b'."""
    runs = list(runs)
    values = {name: dict.fromkeys(str(run.get(theirs) or "") for run in runs) for name, theirs in ORIGIN.items()}
    return {name: " and ".join(filter(None, found)) for name, found in values.items()}


def _flat(value):
    """A cell of a table: a mapping as 'a=1 b=2', a number with DIGITS significant digits."""
    if isinstance(value, Mapping):
        return " ".join(f"{key if isinstance(key, str) else f'{key:g}'}={_flat(v)}" for key, v in value.items())
    if isinstance(value, float) and not value.is_integer():
        return float(f"{value:.{DIGITS}g}")
    return value


def _tried(text: str) -> dict[float, float]:
    return {float(rate): float(value) for rate, value in _pairs(text)}


def _lengths(text: str) -> dict[str, float | str]:
    return {length: value if value == "undefined" else float(value) for length, value in _pairs(text)}


def _pairs(text: str) -> list[tuple[str, str]]:
    return [tuple(part.split("=", 1)) for part in (text or "").split()]
