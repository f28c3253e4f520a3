"""A planted comparison: a folder as `compare` leaves it, with known scores and invented run directories."""

import csv
import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from planted_metrics import good_metrics

from src.storage.files import seal

ENV = {
    "commit": "0123456789abcdef0123456789abcdef01234567",
    "dirty": False,
    "argv": ["benchmark.py", "--task", "needle"],
    "versions": {"python": "3.11.7", "torch": "2.6.0"},
    "platform": "Linux-6",
    "cpu": {"model": "AMD EPYC", "cores": 2, "usable_cores": 2},
    "threads": {"torch": 1},
    "device": {"name": "cpu", "kind": "AMD EPYC"},
    "data": {"digest": "5be1c7f0d2"},
}
RESULTS = (  # columns of results.csv
    "run role task model setting lr seed status why metric value low high scaled chance ceiling val_value val_loss "
    "test_loss solved_at steps best_step diverged_at chars_seen parameters embedding_parameters layer_parameters "
    "state_bytes precision threads init pos data_digest code_digest flags notes train_s machine commit dirty"
).split()
SUMMARY = (
    "task model setting metric seeds values n holes median mean low high interval scaled chance ceiling success "
    "success_low success_high threshold median_steps reached lr lr_tried lr_val good_decades at_edge diverged "
    "parameters layer_parameters state_bytes chars init pos"
).split()
SAMPLES = "prompt    ab3>\nexpected  cba\ngot       cba\n\nprompt    xy2>\nexpected  yx\ngot       yy   (wrong)\n"
CHANCE, THRESHOLD, STEPS = 0.06, 0.95, 600


@dataclass
class Plan:
    """What is planted. scores: {(task, model): score of each seed}.  pairs: entries of verdicts.json."""

    scores: dict[tuple[str, str], tuple[float, ...]]
    seeds: tuple[int, ...] = (11, 12, 13)
    pairs: list[dict] = field(default_factory=list)
    holes: list[dict] = field(default_factory=list)
    checks: dict = field(default_factory=dict)
    rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    at_edge: str = "no"
    states: dict[str, int] = field(default_factory=dict)
    layers: dict[str, int] = field(default_factory=dict)
    edit: object = None  # called with each run's metrics before they are written


def plant(folder, plan: Plan) -> Path:
    """Write the whole folder; returns it."""
    folder = Path(folder)
    (folder / "runs").mkdir(parents=True)
    command = "python benchmark.py compare --task parity,copy --model deltanet gru"
    settings = {"command": command, "seeds": list(plan.seeds), "tuning_seed": 1, "margin": None}
    write_json(folder / "config.json", seal({"schema": 1, "kind": "compare", "settings": settings}))
    write_json(folder / "env.json", ENV)
    cells = [
        {"task": t, "model": m, "setting": "", "steps": STEPS, "block": "rms, gelu", "gate": []} for t, m in plan.scores
    ]
    write_json(folder / "plan.json", seal({"schema": 1, "cells": cells}))
    results = [row for cell in plan.scores for row in _rows(folder, plan, *cell)]
    _table(folder / "results.csv", RESULTS, results)
    _table(folder / "summary.csv", SUMMARY, [_summary(plan, *cell) for cell in plan.scores])
    verdicts = {"schema": 1, "alpha": 0.05, "margin": None, "level": 0.95, "pairs": plan.pairs, "holes": plan.holes}
    write_json(folder / "verdicts.json", seal({**verdicts, "suite": [], "notes": []}))
    if plan.checks:
        write_json(folder / "checks.json", plan.checks)
    return folder


def write_json(path: Path, document) -> None:
    """Write at once: that of the program waits for the disk, which takes seconds for a folder of many runs."""
    path.write_text(json.dumps(document), encoding="utf-8")


def plant_run(folder: Path, metrics: dict, explicit: dict, samples: str = SAMPLES) -> Path:
    """An invented training run in a folder of its own."""
    folder.mkdir(parents=True)
    args = metrics["args"]
    write_json(
        folder / "config.json", seal({"schema": 1, "args": args, "explicit": explicit, "files": {}, "preset": "small"})
    )
    write_json(folder / "env.json", ENV)
    write_json(folder / "metrics.json", seal(metrics))
    (folder / "samples.txt").write_text(samples, encoding="utf-8")
    return folder


def invented(task: str, model: str, seed: int, value: float | None, lr: float = 3e-3, state: int = 1024) -> dict:
    """Metrics of an invented run with this score; None: it diverged."""
    number = int(hashlib.sha256(f"{task}{model}{seed}{lr}".encode()).hexdigest()[:6], 16)
    metrics = good_metrics(
        task, model, seed=number, reach=20 + 400 * (value or 0), diverged_at=None if value is not None else 60
    )
    metrics["args"] |= {
        "seed": seed,
        "lr": lr,
        "init": "torch",
        "pos": "none",
        "norm": "rms",
        "mlp": "gelu",
        "dim_ffn": 64,
    }
    metrics["data"]["digest"] = f"{task}-{seed}"
    metrics["decode_state"]["bytes"] = state
    metrics["machine"]["train_seconds"] = 20.0 + number % 50
    if value is not None:
        for result in (metrics["final_test"], metrics["test"]["best"], metrics["val"]["best"]):
            result["hit_rate"] = value
            half = min(0.02, value, 1 - value)
            result["intervals"]["hit_rate"] = [value - half, value + half]
        metrics["scaled"] = (value - CHANCE) / (1 - CHANCE)
    return metrics


def pair(task: str, a: str, b: str, difference: float, verdict: str, headline: bool = True, seeds=(11, 12, 13)) -> dict:
    """An entry of verdicts.json."""
    p = 0.012 if verdict in ("better", "worse") else 0.4
    return {
        **{
            "task": task,
            "setting": "",
            "metric": "hit_rate",
            "a": a,
            "b": b,
            "seeds": list(seeds),
            "headline": headline,
        },
        **{"difference": difference, "low": difference - 0.04, "high": difference + 0.04, "method": "t", "p": p},
        **{"p_adjusted": p if verdict != "no verdict" else None, "smallest_p": 0.1, "separated": verdict == "better"},
        **{"items_low": difference - 0.05, "items_high": difference + 0.05, "verdict": verdict, "words": "free <text>"},
    }


def _rows(folder: Path, plan: Plan, task: str, model: str):
    """The rows of results.csv of a cell: its tuning and its report runs, each with a directory."""
    scores = plan.scores[task, model]
    planned = [
        ("tuning", 1, lr, max(0.0, max(scores, default=0.5) - 0.3 * abs(math.log10(lr / 3e-3)))) for lr in plan.rates
    ]
    planned += [("report", seed, 3e-3, value) for seed, value in zip(plan.seeds, scores, strict=False)]
    for role, seed, lr, value in planned:
        name = hashlib.sha256(f"{task}{model}{seed}{lr}".encode()).hexdigest()[:16]
        metrics = invented(task, model.split(" ")[0], seed, value, lr, plan.states.get(model, 1024))
        if plan.edit:
            plan.edit(metrics)
        plant_run(folder / "runs" / name, metrics, {"task": task, "model": model})
        common = {"run": name, "role": role, "task": task, "model": model, "setting": "", "lr": lr, "seed": seed}
        yield {**common, "status": "done", "metric": "hit_rate", "value": value, "val_value": value, "chance": CHANCE}
    for hole in plan.holes:
        if (hole["task"], hole["model"]) == (task, model):
            yield {**hole, "run": "", "status": "failed", "why": hole["why"]}


def _summary(plan: Plan, task: str, model: str) -> dict:
    values = plan.scores[task, model]
    holes = sum((h["task"], h["model"]) == (task, model) for h in plan.holes)
    row = {"task": task, "model": model, "setting": "", "metric": "hit_rate", "n": len(values), "holes": holes}
    row |= {
        "chance": CHANCE,
        "ceiling": 1.0,
        "threshold": THRESHOLD,
        "lr": 3e-3,
        "at_edge": plan.at_edge,
        "diverged": 0,
    }
    row |= {"parameters": 84_600, "layer_parameters": plan.layers.get(model, 73_720), "init": "torch", "pos": "none"}
    row |= {"state_bytes": plan.states.get(model, 1024), "chars": 2_457_600, "interval": "t over seeds"}
    row |= {"lr_tried": " ".join(f"{lr:g}" for lr in plan.rates), "good_decades": 0.5}
    row["lr_val"] = " ".join(
        f"{max(0.0, max(values, default=0.5) - 0.3 * abs(math.log10(lr / 3e-3))):.3f}" for lr in plan.rates
    )
    if not values:
        return row
    half = 4.3 * float(np.std(values, ddof=1)) / len(values) ** 0.5 if len(values) > 1 else 0.02
    mean, solved = float(np.mean(values)), sum(v >= THRESHOLD for v in values)
    row |= {"seeds": " ".join(map(str, plan.seeds[: len(values)])), "values": " ".join(f"{v:g}" for v in values)}
    row |= {
        "median": float(np.median(values)),
        "mean": mean,
        "low": max(0.0, mean - half),
        "high": min(1.0, mean + half),
    }
    row |= {"scaled": (mean - CHANCE) / (1 - CHANCE), "success": solved / len(values), "success_low": 0.1}
    return row | {"success_high": 1.0, "median_steps": 240 if solved > len(values) / 2 else None}


def _table(path: Path, columns, rows: list[dict]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows({k: "" if v is None else v for k, v in row.items()} for row in rows)
