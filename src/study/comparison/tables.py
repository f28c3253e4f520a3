"""The tables of a comparison: one row per run (results.csv), one per task, model and setting (summary.csv).

    row = run_row(run, known_metrics, env)          # of a finished run
    hole = hole_row(run, "failed", "why")
    to_csv(rows, RESULT_COLUMNS)

The same plan gives the same bytes on every engine, but for the columns MACHINE. Empty cells mean that nothing is known.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence

from src.storage.tables import csv_bytes
from src.study.records import length_columns

RUN_COLUMNS = (
    *("run", "role", "task", "model", "setting", "lr", "seed", "status", "why"),
    *("metric", "value", "low", "high", "scaled", "chance", "ceiling", "val_value", "val_loss", "test_loss"),
    *("solved_at", "stopped_at", "steps", "best_step", "diverged_at", "chars_seen"),
    *("parameters", "embedding_parameters", "layer_parameters", "state_bytes"),
)
END_COLUMNS = ("precision", "threads", "init", "pos", "data_digest", "code_digest", "flags", "notes")
MACHINE = ("train_s", "command_s", "peak_mib", "machine", "versions", "commit", "dirty")
DIVERGED = "diverged"


def chance_of(metrics: Mapping) -> float:
    """The highest chance level of the primary metric."""
    return max((levels["primary"] for levels in metrics["floors"].values()), default=0.0)


def start_of(run) -> dict:
    """The columns of a run that are known before it begins. run: a src.study.comparison.campaign.Run."""
    cell = run.cell
    return {
        "run": run.name,
        "role": run.role,
        "task": cell.task,
        "model": cell.model,
        "setting": cell.setting,
        "lr": run.lr,
        "seed": run.seed,
        "metric": cell.terms["metric"],
        "steps": cell.terms["steps"],
        "parameters": cell.terms["parameters"],
        "embedding_parameters": cell.terms["embedding_parameters"],
        "layer_parameters": cell.terms["layer_parameters"],
        "state_bytes": cell.terms["state_bytes"],
        "precision": cell.terms["precision"],
        "threads": cell.setup.args.threads,
        "init": cell.terms["init"],
        "pos": cell.terms["pos"],
        "code_digest": cell.terms["code_digest"],
        "flags": shlex.join(run.job().words),
    }


def result_of(metrics: Mapping, env: Mapping) -> dict:
    """The columns of a finished run. A run that diverged has the score of chance."""
    primary, chance = metrics["primary"], chance_of(metrics)
    diverged = metrics["status"] == DIVERGED
    test, val = metrics["final_test"] or {}, metrics["val"]["best"] or {}
    low, high = test.get("intervals", {}).get(primary, (None, None))
    machine, device = metrics["machine"], env.get("device") or {}
    return {
        "status": metrics["status"],
        "metric": primary,
        "value": chance if diverged or primary not in test else test[primary],
        "low": low,
        "high": high,
        "scaled": 0.0 if diverged else metrics["scaled"],
        "chance": chance,
        "ceiling": metrics["ceiling"],
        "val_value": chance if diverged else val.get(primary),
        "val_loss": None if diverged else val.get("loss"),
        "test_loss": test.get("loss"),
        "solved_at": (metrics.get("solved_at") or {}).get("step"),
        "stopped_at": metrics.get("stopped_at"),
        "steps": metrics["steps"],
        "best_step": metrics["best_step"],
        "diverged_at": metrics["diverged_at"],
        "chars_seen": metrics["chars_seen"],
        **length_columns(metrics),
        "data_digest": metrics["data"]["digest"],
        "notes": "; ".join(metrics["notes"]),
        "train_s": machine.get("train_seconds"),
        "command_s": machine.get("command_seconds"),
        "peak_mib": machine.get("peak_memory_mib"),
        "machine": f"{device.get('kind', '')}, {device.get('name', '')}".strip(", "),
        "versions": "; ".join(f"{k} {v}" for k, v in sorted((env.get("versions") or {}).items())),
        "commit": env.get("commit"),
        "dirty": {True: "yes", False: "no"}.get(env.get("dirty"), ""),
    }


def columns_of(rows: Iterable[Mapping]) -> list[str]:
    """All columns of results.csv: those of every run, those of lengths that some run was tested at, the machine's."""
    lengths = {key for row in rows for key in row if key.startswith("at_")}
    return [*RUN_COLUMNS, *sorted(lengths, key=by_length), *END_COLUMNS, *MACHINE]


def by_length(column: str) -> tuple:
    """at_mean first, then the lengths in order, each before its interval."""
    _, what, *end = column.split("_")
    return (what != "mean", int(what) if what.isdigit() else 0, end)


def to_csv(rows: Iterable[Mapping], columns: Sequence[str]) -> bytes:
    """CSV with a header. Numbers have as many digits as they need to be read back."""
    return csv_bytes(columns, rows, _cell)


def _cell(value) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return repr(value) if isinstance(value, float) else str(value)
