"""A finished comparison as its folder holds it: the runs on fresh seeds by name, and what a record keeps of the rest.

    found = open_stored("runs/parity")     # UserError for a comparison with a hole, or with damaged tables
    found.runs                             # {"parity-gru-11": Path("runs/parity/runs/0123456789abcdef"), ...}
    found.document                         # its part of comparisons.json, see src/study/records.py

A run's name consists of the folder's name, the model, the setting and the task where there are several, and the seed.
Nothing here imports torch.
"""

from __future__ import annotations

import itertools
import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from src.flags.fields import UserError
from src.storage.files import open_sealed
from src.storage.rundir import RunDir
from src.storage.tables import read_csv

KIND = "compare"
FINISHED = ("done", "diverged")
CELL = ("task", "model", "setting")
LONGEST_NAME = 80  # characters of the part of a name that comes from labels; a file's name has 255 at most
# Columns of summary.csv that are text also where they look like a number: labels, and lists with one entry per seed.
TEXT = (*CELL, "seeds", "values", "scaled_values", "solved_at", "stopped_at", "lr_tried", "lr_val")
NEEDED = ("run", "role", *CELL, "lr", "seed", "status", "why", "val_value", "val_loss")
AGAIN = "run the same `compare` command again with --out_dir {}"


@dataclass(frozen=True)
class Stored:
    """A finished comparison.

    name: of its folder, without characters that a file's name should not have.  runs: {name in a record: run
    directory}, in the order of the tables.  document: JSON-able.
    """

    name: str
    runs: dict[str, Path]
    document: dict


def is_comparison(folder) -> bool:
    """Whether a folder is one of `compare`, finished or not."""
    return RunDir(folder).stored_kind() == KIND


def open_stored(folder) -> Stored:
    """The comparison in a folder. UserError where it is not finished, with the first hole, or where it is damaged."""
    folder = Path(folder)
    config = open_sealed(folder / "config.json")
    settings = config["settings"]
    if not (folder / "results.jsonl").is_file():
        raise UserError(f"'{folder}': not finished, no run has ended yet; {AGAIN.format(folder)}")
    rows = read_rows(folder / "results.jsonl")
    report = {(*_cell(row), row["seed"]): row for row in rows if row["role"] == "report"}
    _refuse_holes(folder, settings, rows, report)
    verdicts = open_sealed(folder / "verdicts.json")
    summary = _read_summary(folder / "summary.csv", settings)
    name = slug(folder.resolve().name)
    stems = _stems(name, list(dict.fromkeys(_cell(row) for row in report.values())))
    runs = {f"{stems[_cell(row)]}-{row['seed']}": folder / "runs" / row["run"] for row in report.values()}
    for row in summary:
        row["runs"] = " ".join(f"{stems[_cell(row)]}-{seed}" for seed in settings["seeds"])
    return Stored(name, runs, _document(config, rows, summary, verdicts))


def slug(label: str) -> str:
    """A label as part of a file's name: 'deltanet --neg_eigen' becomes 'deltanet-neg_eigen'."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", label).strip("-.") or "x"


def _cell(row: Mapping) -> tuple[str, str, str]:
    return row["task"], row["model"], row["setting"]


def _cells(settings: Mapping) -> list[tuple[str, str, str]]:
    """Every (task, model, setting) that was asked for."""
    return list(itertools.product(*([side["label"] for side in settings[f"{kind}s"]] for kind in CELL)))


def _stems(name: str, cells: Sequence[tuple[str, str, str]]) -> dict[tuple, str]:
    """{cell: the name of its runs without the seed}; -2, -3, ... where two labels give the same, in any case."""
    several_tasks = len({task for task, _, _ in cells}) > 1
    found: dict[tuple, str] = {}
    for cell in cells:
        task, model, setting = cell
        labels = [model, *([setting] if setting else []), *([task] if several_tasks else [])]
        stem = f"{name}-{'-'.join(map(slug, labels))[:LONGEST_NAME]}"
        taken = {other.casefold() for other in found.values()}
        choices = itertools.chain([stem], (f"{stem}-{n}" for n in itertools.count(2)))
        found[cell] = next(choice for choice in choices if choice.casefold() not in taken)
    return found


def _refuse_holes(folder: Path, settings: Mapping, rows: Iterable[Mapping], report: Mapping) -> None:
    """UserError that names the first run of the plan without a result."""
    holes = [_hole(row, row["status"], row["why"]) for row in rows if row["status"] not in FINISHED]
    for cell, seed in itertools.product(_cells(settings), settings["seeds"]):
        if (*cell, seed) not in report:
            holes.append(_hole({**dict(zip(CELL, cell, strict=True)), "seed": seed}, "planned", ""))
    if holes:
        more = f" ({len(holes) - 1} more like it)" if len(holes) > 1 else ""
        raise UserError(f"'{folder}': not finished: {holes[0]}{more}; {AGAIN.format(folder)}")


def _hole(row: Mapping, status: str, why: str) -> str:
    """'parity, gru, seed 12 failed: was killed by SIGKILL'."""
    where = ", ".join(filter(None, _cell(row)))
    said = "has not run yet" if status == "planned" else f"{status}: {why}"
    return f"{where}, seed {row['seed']} {said}"


def read_rows(path: Path) -> list[dict]:
    """The rows of results.jsonl, one per run of the plan."""
    rows = []
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"'{path}': cannot be read ({error}); {AGAIN.format(path.parent)}") from error
    for n, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            rows.append({**row, **{name: row[name] for name in NEEDED}})
        except (ValueError, RecursionError, KeyError, TypeError) as error:
            raise UserError(f"'{path}' line {n} is damaged ({error}); {AGAIN.format(path.parent)}") from error
    return rows


def _read_summary(path: Path, settings: Mapping) -> list[dict]:
    """The rows of summary.csv, without empty cells. Each cell must have all seeds, else the table is an older one."""
    rows = [row for _, row in read_csv(path, (*CELL, "seeds"), AGAIN.format(path.parent))]
    seeds = " ".join(map(str, settings["seeds"]))
    whole = all(row["seeds"] == seeds for row in rows)
    if not whole or sorted(map(_cell, rows)) != sorted(_cells(settings)):
        raise UserError(f"'{path}' is not of the seeds and models of config.json; {AGAIN.format(path.parent)}")
    return [{name: _value(name, text) for name, text in row.items() if text or name in CELL} for row in rows]


def _value(name: str, text: str):
    """The number of a cell, or its text."""
    if name in TEXT:
        return text
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return text


def _document(config: Mapping, rows: Iterable[Mapping], summary: Sequence[Mapping], verdicts: Mapping) -> dict:
    """What a record keeps of a comparison. Empty cells are left out."""
    settings, chosen = config["settings"], {_cell(row): row.get("lr") for row in summary}
    rates = [
        {
            **{name: row[name] for name in (*CELL, "lr", "seed", "status", "val_value", "val_loss")},
            "chosen": chosen[_cell(row)] == row["lr"],
        }
        for row in rows
        if row["role"] == "tuning"
    ]
    return {
        "command": _command(config["command"]),
        "tuning_seed": settings["tuning_seed"],
        "seeds": settings["seeds"],
        **{name: verdicts[name] for name in ("first", "claim", "alpha", "level", "margin")},
        "rates": rates,
        "summary": summary,
        **{name: list(map(_without_empty, verdicts[name])) for name in ("pairs", "suite")},
        "holes": verdicts["holes"],
        "notes": verdicts["notes"],
    }


def _without_empty(row: Mapping) -> dict:
    return {name: value for name, value in row.items() if value is not None}


def _command(command: str) -> str:
    """The command as typed, without folders."""
    kept, is_folder = [], False
    for word in shlex.split(command):
        is_folder = word.split("=")[0] in ("--out_dir", "--reuse") if word.startswith("--") else is_folder
        kept += [] if is_folder else [word]
    return shlex.join(kept)
