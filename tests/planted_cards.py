"""Suites, records and cards with known scores, without training.

suite = write_suite(folder)                         # a suite file of two rows and three layers
table = planted_table(suite, "gru", {"recall": (0.9, 0.8, 0.85)})
document = planted_card(suite, {"ours": {...}}, {"gru": {...}})
"""

from pathlib import Path

from src.study.card import cards
from src.study.card.baselines import Table
from src.study.card.scores import score_of
from src.study.card.suite import Suite, read_suite
from src.study.card.validity import VALID, Status

SEEDS = (11, 12, 13)
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
    """Runs of the seeds of the suite. values: {row: one value per seed, or (value, value beyond) per seed}."""
    runs = []
    for name, found in values.items():
        for seed, value in zip(SEEDS, found, strict=False):
            value, beyond = value if isinstance(value, tuple) else (value, None)
            measured = len(suite.row(name).measure) > 1
            runs.append(planted_run(name, seed, value, value if measured and beyond is None else beyond))
    return runs


def planted_table(suite: Suite, label: str, values: dict, **changed) -> Table:
    """The record of a layer."""
    rows = {
        name: {
            "row": name,
            "task": "planted",
            "metric": "token_acc",
            "lr": 0.003,
            "tried": {0.003: 0.9, 0.01: 0.5},
            "data": "d" * 16,
            "flags": "f" * 16,
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
        "origin": {"commit": "0" * 40, "dirty": "no", "versions": "torch 2.6.0", "processor": "cpu"},
    }
    return Table(**{**content, **changed})


def planted_card(suite: Suite, ours: dict, published: dict, statuses=None, missing=None) -> dict:
    """The content of card.json. ours, published: {label: values as in `planted_runs`}."""
    tables = {label: planted_table(suite, label, values) for label, values in published.items()}
    known = {
        (label, row.name): Status(VALID) if row.name in published.get(label, {}) else Status("missing", "no runs")
        for label in suite.layers
        for row in suite.rows
    }
    field = cards.field_of(suite, tables, {**known, **(statuses or {})})
    return cards.make(suite, {label: scores_of(suite, values) for label, values in ours.items()}, field, missing or {})


def scores_of(suite: Suite, values: dict) -> dict:
    """{row: {seed: Score}}."""
    found: dict = {}
    for run in planted_runs(suite, values):
        found.setdefault(run["row"], {})[run["seed"]] = score_of(run, suite.row(run["row"]).measure)
    return found
