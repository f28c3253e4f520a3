"""Evaluation: one teacher-forced pass for losses, accuracies and slices, and greedy cached decoding for what needs the model's own answer.

`evaluate` gives the result R that metrics.json stores for a split (its schema: src/storage/schema.py).
"""

from __future__ import annotations

import numpy as np
import torch

from src.stats import intervals
from src.utils.decoding import generation_scores
from src.utils.distributed import World
from src.utils.metrics import Scored, rows_all_correct
from src.utils.precision import autocast
from src.utils.samples import write_samples


@torch.inference_mode()
def teacher_forced(model, loader, device, args, among=None, world: World | None = None) -> Scored:
    """One pass over a loader. among: ids that predictions are chosen from, all where None. Ranks share the batches."""
    world = world or World()
    training = model.training
    model.eval()
    parts = []
    for i, batch in enumerate(loader):
        if i % world.size != world.rank:
            continue
        moved = batch.to(device)
        with autocast(device, args.precision):
            _, aux = model.loss_fn(moved)
        parts.append(_scored(moved, aux, batch.meta["row"], among))
    model.train(training)
    return Scored.join([p for shard in world.gather(parts) for p in shard])


def _scored(batch, aux, rows, among) -> Scored:
    logits, target = aux["logits"].float(), aux["target"]
    width = batch.x.shape[1]
    index = torch.arange(batch.x.numel(), device=logits.device) if aux["index"] is None else aux["index"]
    keep = batch.score.flatten()[index]
    logits, target, index = logits[keep], target[keep], index[keep]
    nll = torch.nn.functional.cross_entropy(logits, target, reduction="none")
    guess = logits.argmax(-1) if among is None else among[logits[:, among].argmax(-1)]
    index = index.cpu().numpy()
    return Scored(
        rows[index // width],
        nll.double().cpu().numpy(),
        (guess == target).cpu().numpy(),
        batch.gaps.cpu().flatten().numpy()[index],
        index % width,
    )


def evaluate(model, loader, device, args, task_meta=None, save_samples=None, world: World | None = None) -> dict:
    """Metrics of one split (R of src/storage/schema.py).

    task_meta None (a bare loader): losses and token accuracy only.  save_samples: a path for 8 samples as text (answer tasks).
    """
    task = task_meta.task if task_meta else None
    among = None
    if task is not None and task.score_among:
        among = torch.from_numpy(task_meta.tokenizer.encode(task.score_among).astype(np.int64)).to(device)
    scored = teacher_forced(model, loader, device, args, among, world)
    result = {**scored.losses(), "token_acc": float(scored.correct.mean()), "exact_match": None}
    counts = {"token_acc": len(scored.row)}
    per_example: dict[str, np.ndarray] = {}
    if task is not None and not task.reads_text:
        exact = rows_all_correct(scored.correct, scored.row)
        per_example["exact_match"] = np.array([exact[i] for i in sorted(exact)], dtype=float)
        if task.score_metrics:
            per_example.update(generation_scores(model, loader.dataset.examples, task_meta, device))
        for name, values in per_example.items():
            result[name] = float(values.mean())
            counts[name] = len(values)
    for name, source in (task.aliases if task else {}).items():
        result[name], counts[name] = result[source], counts[source]
        if source in per_example:
            per_example[name] = per_example[source]
    result["n_examples"] = len(np.unique(scored.row))
    result["n_scored"] = len(scored.row)
    result["intervals"] = {
        name: list(intervals.wilson(result[name] * n, n)) for name, n in counts.items() if is_share(task, name)
    }
    spread = intervals.t_interval(scored.nll) if np.isfinite(scored.nll).all() else None
    if spread:
        result["intervals"]["loss"] = list(spread)
    result["slices"] = slices(task, loader.dataset, scored, per_example) if task else {}
    if save_samples and task is not None and not task.reads_text:
        write_samples(save_samples, model, loader.dataset.examples[:8], task_meta, device)
    return result


def is_share(task, name: str) -> bool:
    """Whether a metric is a mean of values in 0..1, so that a Wilson interval means something: all "higher is better" ones are."""
    return name in ("token_acc", "exact_match") or (
        task is not None and (name in (task.primary, *task.aliases) or task.score_metrics.get(name) == "higher")
    )


def slices(task, dataset, scored: Scored, per_example: dict) -> dict:
    """The task's curves: value, count and interval a bin."""
    found = {}
    for spec in task.slices:
        name = f"{spec.of}_{spec.metric}" if spec.metric else spec.of
        forms = [(name, "log2"), (f"{name}_linear", "linear")] if spec.of == "gap" else [(name, spec.bins)]
        xs, values, metric = _slice_items(task, dataset, spec, scored, per_example)
        if not len(xs):
            continue
        for name, bins in forms:
            binned = intervals.binned(values, xs, bins, interval="mean" if metric == "loss" else "wilson")
            scale = "category" if "name" in binned[0] else "log2" if bins == "log2" else "linear"
            found[name] = {
                "of": spec.of,
                "label": spec.label,
                "level": spec.level,
                "metric": metric,
                "scale": scale,
                "bins": binned,
            }
    return found


def _slice_items(task, dataset, spec, scored: Scored, per_example):
    """(x, value, metric name) of every item that a slice counts; characters where the primary metric is one of characters."""
    if spec.level == "example" and task.primary in per_example:
        return _example_values(dataset, spec.of), per_example[task.primary], task.primary
    if spec.of == "gap":
        xs, keep = scored.gap, scored.gap >= 0
    elif spec.of == "position":
        xs, keep = scored.ordinal, np.ones(len(scored.row), dtype=bool)
        if task.writes_answer:  # the <eos> behind the answer has no position of its own
            keep = scored.ordinal < dataset.answer_chars[scored.row]
    elif spec.level == "example":
        xs = np.asarray(_example_values(dataset, spec.of))[scored.row]
        keep = np.ones(len(scored.row), dtype=bool)
    else:
        per_row = [dataset.examples[i].meta[spec.of] for i in range(len(dataset))]
        keep = scored.ordinal < np.array([len(v) for v in per_row])[scored.row]
        xs = np.array([per_row[r][o] if k else 0 for r, o, k in zip(scored.row, scored.ordinal, keep, strict=True)])
    if spec.metric == "loss":
        return np.asarray(xs)[keep], scored.nll[keep], "loss"
    return np.asarray(xs)[keep], scored.correct[keep].astype(float), "token_acc"


def _example_values(dataset, of: str) -> list:
    if of == "length":
        return dataset.task_lengths.tolist()
    return [e.meta[of] for e in dataset.examples]
