"""summary.csv: one row per task, model and setting. What its seeds say together, and how its learning rate was chosen.

    rows = summarise(campaign)
    to_csv(rows, summary_columns(rows))

Only fresh seeds count. A run that diverged counts with the score of chance; a run that failed is a hole, and is named.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from src.stats.seeds import mean_over_seeds, success
from src.stats.survival import steps_to_threshold
from src.study.comparison.campaign import Campaign, Group, Known, Run
from src.study.comparison.cells import Cell
from src.study.comparison.rates import good_decades
from src.study.comparison.tables import by_length

SHARE = (0.0, 1.0)  # the range of every primary metric
START = (
    *("task", "model", "setting", "metric", "seeds", "values", "n", "holes", "diverged"),
    *("median", "mean", "low", "high", "interval", "scaled", "scaled_values", "chance", "ceiling"),
    *(
        "success",
        "success_low",
        "success_high",
        "threshold",
        "solved_at",
        "reached",
        "median_steps",
        "stopped_at",
        "steps",
    ),
    *("lr", "lr_tried", "lr_val", "lr_failed", "good_decades", "at_edge"),
)
END = ("parameters", "layer_parameters", "state_bytes", "chars", "init", "pos")


def summarise(campaign: Campaign) -> list[dict]:
    """The rows of summary.csv, in the order of the tables."""
    runs = campaign.runs()
    return [
        _row(campaign, group, cell, [(r, k) for r, k in runs if r.role == "report" and r.cell is cell])
        for group in campaign.groups
        for cell in group.cells
    ]


def summary_columns(rows: Iterable[Mapping]) -> list[str]:
    """All columns: those of every cell, then the median score at each length that some cell was tested at."""
    lengths = {key for row in rows for key in row if key.startswith("at_") and key != "at_edge"}
    return [*START, *sorted(lengths, key=by_length), *END]


def _row(campaign: Campaign, group: Group, cell: Cell, runs: Sequence[tuple[Run, Known]]) -> dict:
    config, terms = campaign.comparison.config, cell.terms
    finished = [(run, known) for run, known in runs if known.row]
    missing = len(campaign.comparison.seeds) - len(finished)
    row = {
        "task": cell.task,
        "model": cell.model,
        "setting": cell.setting,
        "metric": terms["metric"],
        "n": len(finished),
        "holes": missing,
        "threshold": config.solved_at,
        "steps": terms["steps"],
        "chars": terms["chars"],
        **{name: terms[name] for name in ("parameters", "layer_parameters", "state_bytes", "init", "pos")},
        **_rate(campaign, group, cell),
    }
    return row | (_of_seeds(finished, config.solved_at) if finished else {})


def _of_seeds(finished: Sequence[tuple[Run, Known]], threshold: float) -> dict:
    """What the seeds of a cell say together."""
    rows = [known.row for _, known in finished]
    values = [row["value"] for row in rows]
    found, solved = mean_over_seeds(values, limits=SHARE), success(values, threshold)
    reached = [row["solved_at"] is not None for row in rows]
    waited = [row["solved_at"] if ok else row["steps"] for row, ok in zip(rows, reached, strict=True)]
    waiting = steps_to_threshold(waited, [not ok for ok in reached])
    return {
        "seeds": _words(run.seed for run, _ in finished),
        "values": _words(f"{v:.6g}" for v in values),
        "diverged": sum(known.status == "diverged" for _, known in finished),
        **{name: found[name] for name in ("median", "mean", "low", "high")},
        "interval": found["method"],
        "scaled": sum(row["scaled"] for row in rows) / len(rows),
        "scaled_values": _words(f"{row['scaled']:.6g}" for row in rows),
        "chance": max(row["chance"] for row in rows),
        "ceiling": rows[0]["ceiling"],
        "success": solved["count"],
        "success_low": solved["low"],
        "success_high": solved["high"],
        "solved_at": _words("-" if row["solved_at"] is None else row["solved_at"] for row in rows),
        "stopped_at": _words("-" if row.get("stopped_at") is None else row["stopped_at"] for row in rows),
        "reached": sum(reached),
        "median_steps": waiting["median"],
        **_at_lengths(rows),
    }


def _at_lengths(rows: Sequence[Mapping]) -> dict:
    """{at_LENGTH: the median over seeds}; "undefined" where the model has no score at that length."""
    names = {key for row in rows for key in row if key.startswith("at_") and not key.endswith(("_low", "_high"))}
    found = {}
    for name in sorted(names, key=by_length):
        values = [row[name] for row in rows if isinstance(row.get(name), (int, float))]
        found[name] = sorted(values)[len(values) // 2] if values else "undefined"
    return found


def _rate(campaign: Campaign, group: Group, cell: Cell) -> dict:
    """How the learning rate of a cell was chosen."""
    trials = campaign.trials(group, cell.model)
    chosen = (group.chosen or {}).get(cell.model)
    chance = max((t.chance for t in trials.values()), default=0.0)
    known = [rate for rate in sorted(trials) if not trials[rate].failed]
    return {
        "lr": chosen,
        "lr_tried": _words(f"{rate:g}" for rate in (known or sorted(group.grid))),
        "lr_val": _words(f"{trials[rate].score:.6g}" for rate in known),
        "lr_failed": _words(f"{rate:g}" for rate in sorted(trials) if trials[rate].failed),
        "good_decades": good_decades(trials, chance) if len(trials) > 1 else None,
        "at_edge": campaign.at_edge(group, cell.model) if group.chosen is not None else "",
    }


def _words(values) -> str:
    return " ".join(map(str, values))
