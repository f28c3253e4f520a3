"""How much worse a trained model is than the baseline, item by item over the same test set.

    found = differences(folder, models, trainings, documents)      # {(task, model): Difference, or why there is none}

The best weights of each training are scored once more: per block of a text, per example for the other tasks.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from dataset.loaders import build_loaders
from src.setup.plan import build_model
from src.setup.stored import load_checkpoint, open_run
from src.study.claims import trained_tasks
from src.study.claims.contract import Difference, Outcome
from src.study.claims.quality import paired
from src.utils.evaluation import clusters_of, teacher_forced
from src.utils.metrics import rows_all_correct


def differences(folder: Path, models, trainings: dict[tuple[str, str], Outcome], documents: dict) -> dict:
    """{(task, model): Difference from the baseline, or a text that says why there is none}.

    folder: of the study.  models: labels, the baseline first.  documents: {(task, model): its metrics.json}.
    """
    found: dict[tuple[str, str], Difference | str] = {}
    for task in trained_tasks():
        ready = [m for m in models if (task, m) in trainings and trainings[task, m].status == "done"]
        if models[0] in ready:
            found |= _of_task(folder, task, ready, trainings, documents)
    return found


def _of_task(folder: Path, task: str, ready: list[str], trainings: dict, documents: dict) -> dict:
    """The differences on one task; the first of the ready models is the baseline."""
    baseline = ready[0]
    found, test, scores = {}, None, {}
    for m in ready:
        mine, theirs = documents[task, m]["data"], documents[task, baseline]["data"]
        if mine["digest"] != theirs["digest"]:
            found[task, m] = (
                f"{m} and {baseline} were trained on different data ({mine['source']} and {theirs['source']}); "
                "train them again with --overwrite"
            )
            continue
        run = open_run(str(folder / f"{task}-{m}"))
        test = test or build_loaders(run.task_class(run.args), run.args)
        if test[2].facts.digest != mine["digest"]:
            found[task, m] = "the test text is no longer the one that was trained on"
            continue
        scores[m] = _score(run, test)
    is_share = trainings[task, baseline].metric != "loss"
    for m in scores.keys() - {baseline}:
        if baseline in scores:
            found[task, m] = paired(scores[m][0], scores[baseline][0], scores[m][1], is_share)
    return found


def _score(run, data) -> tuple[np.ndarray, np.ndarray]:
    """(errors, counts), each (n,), one item per block or example of the test set, by a run's best weights.

    errors: nats, wrong labels or wrong answers.  counts: the characters, labels or answers that they are sums over.
    """
    tokenizer, loaders, meta = data
    task = meta.task
    device = torch.device(run.args.device)
    model = build_model(run.setup(), tokenizer, task, device)
    model.load_state_dict(load_checkpoint(run, run.run_dir.best, device)["model"])
    among = None
    if task.score_among:
        among = torch.from_numpy(tokenizer.encode(task.score_among).astype(np.int64)).to(device)
    scored = teacher_forced(model, loaders["test"], device, run.args, among)
    _, index = np.unique(clusters_of(loaders["test"].dataset, scored.row), return_inverse=True)
    counts = np.bincount(index).astype(float)
    if task.reads_text:
        return np.bincount(index, weights=scored.nll), counts
    if task.primary == "token_acc":
        return np.bincount(index, weights=~scored.correct), counts
    exact = rows_all_correct(scored.correct, scored.row)
    return np.array([1.0 - exact[row] for row in sorted(exact)]), np.ones(len(exact))
