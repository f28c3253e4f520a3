"""Records of `speed` and `study`: what was timed, and the verdicts of `study`.

Raises UserError, which names the file, for a record that is unfinished, edited or damaged.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from src.flags.fields import UserError
from src.measure.speed.panels import PANELS
from src.storage.files import open_sealed, read_json
from src.storage.record import DONE
from src.storage.rows import check_row
from src.storage.rundir import RunDir
from src.study.claims import CLAIMS
from src.study.page import values as v
from src.study.page.evidence import Claim, Cost, Crossover, Document, Run, Source
from src.study.page.runs import check_size, read_origin, read_run

MOST_ROWS = 20_000
TEXTS = ("panel", "model", "metric", "x_name", "device", "precision", "status", "note")


def read_speed(folder: Path) -> Document:
    """A record of `speed`."""
    return Document(sources=[source_of("speed", folder)], costs=[read_cost(folder, v.shown(folder.name))])


def read_study(folder: Path) -> tuple[Document, list[tuple[Run, dict]]]:
    """A study: its verdicts and panels; and its trainings, as runs that were given one by one."""
    history = open_history(folder)
    document = Document(sources=[source_of("study", folder)], costs=[cost_of(history, v.shown(folder.name))])
    questions = {claim.key: claim.question for claim in CLAIMS}
    document.claims = [
        Claim(
            questions.get(v.text(c, "claim"), "").replace("{}", v.text(c, "baseline")) or v.text(c, "claim"),
            *(v.text(c, name) for name in ("model", "verdict", "words")),
        )
        for c in v.records(history, "claims")
    ]
    parts = [folder / part for part in v.part(history, "parts") if is_below(part)]
    trainings = [p for p in parts if (p / "metrics.json").is_file() and not RunDir(p).stored_kind()]
    return document, [read_run(path) for path in trainings]


def is_below(part: str) -> bool:
    """Whether the path of a part stays in its folder."""
    return not Path(part).is_absolute() and ".." not in Path(part).parts


def read_cost(folder: Path, name: str) -> Cost:
    """The panels of a record of `speed`."""
    return cost_of(open_history(folder), name)


def open_history(folder: Path) -> dict:
    """history.json of a finished record."""
    path = folder / "history.json"
    check_size(path)
    if not path.is_file():
        raise UserError(f"'{folder}': not finished, it has no history.json; run the same command again")
    history = open_sealed(path)
    if history.get("status") != DONE:
        raise UserError(f"'{folder}': not finished; continue it with the same command")
    return history


def cost_of(history: dict, name: str) -> Cost:
    """The panels, growth exponents and crossover lengths of a history."""
    rows = tuple(_row(row) for row in v.records(history, "rows")[:MOST_ROWS] if _is_panel(row))
    crossovers = tuple(
        Crossover(
            ", batch ".join(filter(None, (v.text(c, "panel"), v.text(c, "batch")))),
            *(v.text(c, key) for key in ("what", "winner", "loser", "words")),
        )
        for c in v.records(history, "crossovers")
        if v.text(c, "metric").endswith("_ms")
    )
    models = tuple(dict.fromkeys(row["model"] for row in rows))
    return Cost(name, models, rows, tuple(v.records(history, "fits")), crossovers)


def _is_panel(row: dict) -> bool:
    return row.get("kind") == "speed" and row.get("panel") in PANELS


def _row(row: dict) -> dict:
    """The fields of a row that the page shows, typed; UserError if it is no row of the schema."""
    try:
        check_row(row)
    except ValueError as error:
        raise UserError(f"history.json: {v.shown(str(error))}; measure again with --overwrite") from error
    numbers = ("value", "q1", "q3", "low", "high", "x")
    counts = ("n", "batch", "tokens", "threads", "parameters")
    return {
        **{name: v.text(row, name) for name in TEXTS},
        **{name: v.number(row, name) for name in numbers},
        **{name: v.count(row, name) for name in counts},
    }


def source_of(kind: str, folder: Path) -> Source:
    """Where a record comes from."""
    env = read_json(folder / "env.json")
    words = ["python", *v.texts(env, "argv")]
    return Source(
        kind, v.shown(str(folder)), v.shown(shlex.join(words), v.LONGEST_COMMAND), read_origin(folder / "env.json")
    )


def open_kind(folder: Path) -> str:
    """The kind of a folder by its config.json; "" for a training run. UserError where there is none."""
    config = RunDir(folder).config
    if not config.is_file():
        what = "got a folder without config.json" if folder.is_dir() else "no such folder"
        raise UserError(f"'{folder}': {what}, allowed: the folder of a run, of `compare`, `study` or `speed`")
    document = open_sealed(config)
    return v.text(document, "kind") if "args" not in document else ""
