"""Suites, records and cards with known scores, without training.

suite = write_suite(folder)                         # a suite file of two rows and three layers
table = planted_table(suite, "gru", {"recall": (0.9, 0.8, 0.85)})
folder = plant_folder(root, suite, "recall", "gru")  # finished runs, as `card --remake` leaves them
document = planted_card(suite, {"ours": {...}}, {"gru": {...}})
"""

import json
import shlex
from pathlib import Path

from src.storage.files import seal, write_json
from src.study.card import cards
from src.study.card.baselines import ORIGIN as COLUMNS
from src.study.card.baselines import Table
from src.study.card.scores import DIVERGED, score_of
from src.study.card.suite import Row, Suite, file_name, read_suite
from src.study.card.validity import VALID, Status, data_of, expected_setup, expected_words
from src.study.comparison.digest import code_digest

SEEDS = (11, 12, 13)
ORIGIN = {"commit": "0" * 40, "dirty": "no", "processor": "cpu", "versions": "torch 2.6.0"}
SUITE = """
name = "tiny"
parameters = 20000
flags = "--n_layer 1 --precision fp32 --threads 1 --pos none --train_size 0 --val_size 20 --test_size 30 --stop_at 0"
rates = [0.003, 0.01]
tuning_seed = 1
seeds = [11, 12, 13]
layers = ["linear_attention", "deltanet --neg_eigen", "gru"]

[[row]]
name = "parity"
says = "parity"
task = "parity --min_len 4 --max_len 16 --max_steps 6 --batch_size 8 --eval_lengths 24 32"
measure = ["value", "at_mean"]

[[row]]
name = "recall"
says = "recall of 2 pairs"
task = "recall --n_pairs 2 --context_len 12 --max_steps 6 --batch_size 8"
"""


def write_suite(folder, text: str = SUITE, name: str = "tiny.toml") -> Suite:
    """The suite of a new file."""
    path = Path(folder) / name
    path.write_text(text, encoding="utf-8")
    return read_suite(str(path))


def planted_run(row: str, seed: int, value: float, beyond: float | None = None, half: float = 0.01, **changed) -> dict:
    """A run of a record. chance 0, ceiling 1, so that scores are scaled.  half: of the interval of test sampling."""
    run = {
        "row": row,
        "seed": seed,
        "lr": 0.003,
        "status": "done",
        "metric": "token_acc",
        "value": value,
        "low": round(value - half, 6),
        "high": round(value + half, 6),
        "chance": 0.0,
        "ceiling": 1.0,
        "scaled": value,
        "at_mean": beyond,
        "at_mean_low": None if beyond is None else round(beyond - half, 6),
        "at_mean_high": None if beyond is None else round(beyond + half, 6),
        "at_mean_scaled": beyond,
        "lengths": {} if beyond is None else {"16": value, "24": beyond, "32": beyond},
        "data_digest": f"{row}{seed}"[:12],
        "solved_at": 100 if value >= 0.95 else None,
        "steps": 600,
        "best_step": 500,
        "parameters": 20400,
        "layer_parameters": 20000,
        "state_bytes": 1024,
        "train_s": 3.5,
    }
    return {**run, **changed}


def planted_runs(suite: Suite, values: dict) -> list[dict]:
    """Runs of the seeds of the suite. values: {row: one value per seed}, as in `planted_seed`; None: it has failed."""
    return [
        planted_seed(suite, name, seed, value)
        for name, found in values.items()
        for seed, value in zip(SEEDS, found, strict=False)
        if value is not None
    ]


def planted_seed(suite: Suite, name: str, seed: int, value) -> dict:
    """A run with this value, or (value, value beyond training), where "undefined" is no score; or one that DIVERGED."""
    if value == DIVERGED:
        return planted_run(name, seed, 0.0, None, status=DIVERGED)
    value, beyond = value if isinstance(value, tuple) else (value, None)
    if beyond == "undefined":
        return planted_run(name, seed, value, None, at_mean=beyond)
    measured = len(suite.row(name).measure) > 1
    return planted_run(name, seed, value, value if measured and beyond is None else beyond)


def planted_table(suite: Suite, label: str, values: dict, origin: dict = ORIGIN, **changed) -> Table:
    """The record of a layer. origin: of each row."""
    rows = {
        name: {
            "row": name,
            "task": "planted",
            "metric": "token_acc",
            "lr": 0.003,
            "tried": {0.003: 0.9, 0.01: 0.5},
            "data": "d" * 16,
            "flags": "f" * 16,
            **origin,
        }
        for name in values
    }
    content = {
        "label": label,
        "suite": suite.name,
        "protocol": suite.protocol_digest(),
        "probe": (4.1, 3.9),
        "names": ("d_model", "max_steps"),
        "rows": rows,
        "runs": tuple(planted_runs(suite, values)),
    }
    return Table(**{**content, **changed})


def plant_folder(root, suite: Suite, name: str, label: str, **changed) -> Path:
    """ROOT/ROW/LAYER with finished runs of today's code and flags.

    changed: rates, tuning_seed, seeds, or code and data, digests.
    """
    plan = {"rates": suite.rates, "tuning_seed": suite.tuning_seed, "seeds": SEEDS} | changed
    settings = {"seeds": list(plan["seeds"]), "tuning_seed": plan["tuning_seed"]}
    settings |= {"tasks": [{"label": name}], "models": [{"label": label}], "settings": [{"label": ""}]}
    verdicts = {"first": label, "claim": "differs", "alpha": 0.05, "level": 0.95, "margin": 0.0}
    folder = Path(root) / name / file_name(label)
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "results.jsonl", _rows_of_folder(suite, suite.row(name), label, plan))
    write_json(folder / "config.json", seal({"kind": "compare", "settings": settings, "command": "compare"}))
    write_json(folder / "verdicts.json", seal({**verdicts, "pairs": [], "suite": [], "holes": [], "notes": []}))
    seeds = " ".join(map(str, plan["seeds"]))
    (folder / "summary.csv").write_text(f"task,model,setting,seeds,lr\n{name},{label},,{seeds},{plan['rates'][0]}\n")
    return folder


def _rows_of_folder(suite: Suite, row: Row, label: str, plan: dict) -> list[dict]:
    """One run per rate on the tuning seed, then one per fresh seed at the first rate."""
    runs = [("tuning", plan["tuning_seed"], rate) for rate in plan["rates"]]
    runs += [("report", seed, plan["rates"][0]) for seed in plan["seeds"]]
    words = shlex.join(expected_words(suite, row, label))
    common = {
        **{"task": row.name, "model": label, "setting": "", "why": "", "val_value": 0.5, "val_loss": 1.0},
        **{theirs: ORIGIN[ours] for ours, theirs in COLUMNS.items()},
        "code_digest": plan.get("code") or code_digest(expected_setup(suite, row, label)),
        "data_digest": plan.get("data") or data_of(suite, row).examples,
    }
    return [
        {**planted_run(row.name, seed, 0.5), **common, "run": str(seed), "role": role, "lr": rate}
        | {"flags": f"{words} --lr {rate!r} --seed {seed}"}
        for role, seed, rate in runs
    ]


def write_rows(path: Path, rows: list[dict]) -> None:
    """A results.jsonl."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def planted_card(suite: Suite, ours: dict, published: dict, statuses=None, missing=None, files=()) -> dict:
    """The content of card.json. ours, published: {label: values as in `planted_runs`}; files: of `make`."""
    tables = {label: planted_table(suite, label, values) for label, values in published.items()}
    known = {
        (label, row.name): Status(VALID) if row.name in published.get(label, {}) else Status("missing", "no runs")
        for label in suite.layers
        for row in suite.rows
    }
    field = cards.field_of(suite, tables, {**known, **(statuses or {})})
    runs = {label: scores_of(suite, values) for label, values in ours.items()}
    return cards.make(suite, runs, field, missing or {}, files)


def scores_of(suite: Suite, values: dict) -> dict:
    """{row: {seed: Score}}, with None for a run that has failed."""
    found: dict = {name: dict.fromkeys(SEEDS[: len(given)]) for name, given in values.items()}
    for run in planted_runs(suite, values):
        found[run["row"]][run["seed"]] = score_of(run, suite.row(run["row"]).measure)
    return found
