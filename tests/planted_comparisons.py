"""Finished comparisons on disk, without running one: a few tiny trainings, copies of them as other seeds, and tables.

trained = train(home)                             # {label of a model: run directory}, a second each
folder = plant(home / "parity", trained)          # a comparison of these models
"""

import json
import shutil
from pathlib import Path

from conftest import TINY

from src.storage.files import seal
from src.study.comparison.tables import columns_of, result_of, to_csv

MODELS = {"gru": ("gru",), "lstm --n_layer 2": ("lstm", "--n_layer", "2")}
RATES = (0.001, 0.003, 0.01)
CHOSEN = {"gru": 0.003, "lstm --n_layer 2": 0.01}
WORDS = ("--task", "needle", *TINY, "--device", "cpu", "--eval_lengths", "2x")
SUMMARY = ("task", "model", "setting", "metric", "seeds", "values", "n", "holes", "chance", "steps", "lr", "lr_tried")


def train(home: Path) -> dict[str, Path]:
    """One tiny run per model, on seed 11 at its chosen rate."""
    import benchmark

    found = {}
    for label, words in MODELS.items():
        found[label] = home / "trained" / words[0]
        model = ("--model", *words, "--lr", str(CHOSEN[label]), "--seed", "11")
        assert benchmark.main([*WORDS, *model, "--out_dir", str(found[label])]) == 0
    return found


def edit(path: Path, **changed) -> None:
    """Change keys of a sealed file, and seal it again."""
    path.write_text(json.dumps(seal({**json.loads(path.read_text()), **changed})))


def plant(folder: Path, trained, seeds=(11, 12), tasks=("needle",), settings=("",), score=lambda model, seed: None):
    """A comparison of the trained models with all its tables; returns its folder.

    score(model, seed) -> the test score of a run, None for that of the training.
    """
    rows, summary = [], []
    for n, (task, model, setting) in enumerate((t, m, s) for t in tasks for m in trained for s in settings):
        cell = {"task": task, "model": model, "setting": setting}
        for rate in RATES:
            row = {**cell, "run": f"{n:08x}{rate:.0e}", "role": "tuning", "lr": rate, "seed": 1, "why": ""}
            rows.append({**row, "status": "done", "val_value": rate, "val_loss": 1 - rate})
        for seed in seeds:
            name = f"{n:012x}{seed:04x}"
            metrics, env = _run(trained[model], folder / "runs" / name, seed, score(model, seed))
            row = {**cell, "run": name, "role": "report", "lr": CHOSEN[model], "seed": seed, "why": ""}
            rows.append({**row, **result_of(metrics, env)})
        summary.append(_summary(cell, rows, seeds))
    columns = columns_of(rows)
    (folder / "results.csv").write_bytes(to_csv(rows, columns))
    lines = [json.dumps({column: row.get(column) for column in columns}) for row in rows]
    (folder / "results.jsonl").write_text("\n".join(lines) + "\n")
    lengths = sorted({key for row in summary for key in row if key[3:].isdigit()})
    (folder / "summary.csv").write_bytes(to_csv(summary, [*SUMMARY, "at_edge", *lengths, "parameters"]))
    (folder / "verdicts.json").write_text(json.dumps(seal(_verdicts(list(trained)))))
    asked = {
        "tasks": [{"label": task} for task in tasks],
        "models": [{"label": model} for model in trained],
        "settings": [{"label": setting} for setting in settings],
        "seeds": list(seeds),
        "tuning_seed": 1,
    }
    command = f"python benchmark.py compare --task needle --model gru 'lstm --n_layer 2' --out_dir {folder} --quiet"
    config = {"schema": 1, "kind": "compare", "settings": asked, "command": command}
    (folder / "config.json").write_text(json.dumps(seal(config)))
    return folder


def _run(source: Path, target: Path, seed: int, value: float | None) -> tuple[dict, dict]:
    """A copy of a run as one of another seed, with this score; returns its metrics and its environment."""
    shutil.copytree(source, target)
    config = json.loads((target / "config.json").read_text())
    edit(target / "config.json", args={**config["args"], "seed": seed}, explicit={**config["explicit"], "seed": seed})
    metrics = json.loads((target / "metrics.json").read_text())
    result = metrics["test"]["best"]
    if value is not None:
        result |= {metrics["primary"]: value}
        metrics["length_curve"][-1] |= {"value": value / 2}
    test = {**metrics["test"], "best": result}
    edit(
        target / "metrics.json",
        args={**metrics["args"], "seed": seed},
        test=test,
        final_test=result,
        length_curve=metrics["length_curve"],
    )
    return json.loads((target / "metrics.json").read_text()), json.loads((target / "env.json").read_text())


def _summary(cell: dict, rows: list[dict], seeds) -> dict:
    mine = [row for row in rows if row["role"] == "report" and {**row, **cell} == row]
    last = mine[-1]
    return {
        **cell,
        **{name: last[name] for name in ("metric", "chance", "steps", "lr")},
        **{name: value for name, value in last.items() if name[3:].isdigit()},
        "seeds": " ".join(map(str, seeds)),
        "values": " ".join(f"{row['value']:.6g}" for row in mine),
        "n": len(mine),
        "holes": 0,
        "lr_tried": " ".join(f"{rate:g}" for rate in RATES),
        "at_edge": "yes" if last["lr"] == max(RATES) else "no",
        "parameters": 12_345,
    }


def _verdicts(models: list[str]) -> dict:
    first, second = models
    pair = {"task": "needle", "setting": "", "measure": "value", "a": first, "b": second}
    shown = {**pair, "difference": 1 / 3, "low": None, "verdict": "better", "headline": True}
    words = f"{second} is better than {first} on needle, difference +0.333 [+0.100, +0.500] (p = 0.04 after correction)"
    return {
        **{"schema": 1, "alpha": 0.05, "level": 0.95, "claim": "differs", "margin": None, "first": first},
        "pairs": [
            {**shown, "words": words},
            {**pair, "verdict": "exploratory", "words": "exploratory, no verdict", "headline": False},
        ],
        **{"suite": [], "holes": [], "notes": [f"the chosen learning rate is at the edge for {second}"]},
    }
