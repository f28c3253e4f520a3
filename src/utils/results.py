"""From a finished training to `metrics.json` (schema: src/storage/schema.py), `samples.txt` and `figures/`."""

from __future__ import annotations

import dataclasses
import statistics
from pathlib import Path

import torch

from dataset.loaders import length_loader, parse_lengths
from src.flags import registry
from src.flags.fields import to_dict
from src.models.contract import state_after, state_bytes
from src.stats import intervals
from src.storage import checkpoint
from src.storage.env import peak_memory_mib
from src.storage.rundir import RunDir
from src.storage.schema import SCHEMA_VERSION
from src.utils.chance import chance_levels, scaled
from src.utils.evaluation import evaluate, teacher_forced
from src.utils.metrics import bpc, finite, perplexity
from src.utils.samples import language_samples, samples_text
from src.utils.session import Session
from src.utils.training import Fit, Progress

CURVE_POINTS = 1_000  # training losses kept in metrics.json; longer runs are averaged in equal blocks


def evaluate_splits(model, session: Session) -> dict:
    """{"val": R, "test": R} of the weights that the model holds; language adds heldout_loss to test."""
    s = session
    results = {
        split: evaluate(model, s.loaders[split], s.device, s.args, s.data, world=s.world) for split in ("val", "test")
    }
    if "heldout" in s.loaders:
        results["test"]["heldout_loss"] = teacher_forced(
            model, s.loaders["heldout"], s.device, s.args, world=s.world
        ).loss
    return results


def evaluate_both(model, run_dir: RunDir, progress: Progress, session: Session) -> tuple[dict, dict]:
    """Results by split of the best and the last weights, {"best": R, "last": R}. The model ends with the best weights.

    Last weights are None after a divergence; best weights are None where no validation came first.
    """
    last = None if progress.diverged_at is not None else evaluate_splits(model, session)
    best = None
    if progress.best_step is not None:
        best = last if last is not None and progress.best_step == progress.step else None
        if best is None:
            model.load_state_dict(checkpoint.load(run_dir.best, session.device)["model"])
            best = evaluate_splits(model, session)
    return tuple({"best": best and best[split], "last": last and last[split]} for split in ("val", "test"))


def length_curve(model, session: Session, final_test: dict | None) -> list[dict]:
    """The primary metric and the loss at the training maximum and at every --eval_lengths; a learned table past its end is "undefined".

    The length of a language task is that of a window: the same text at every length, with less or more of what came before each character.
    """
    task, args = session.task, session.args
    longest, shortest = task.longest_length(), task.shortest_length()
    if longest is None or final_test is None:
        return []
    rows = [_length_row(task, longest, True, final_test)]
    for length in parse_lengths(task, args.eval_lengths):
        loader = length_loader(task, session.tokenizer, args, length)
        tokens = int(loader.dataset.tokens.max())
        if model.max_len is not None and tokens > model.max_len:
            why = f"{tokens} tokens, beyond the learned position table of {model.max_len}"
            rows.append(
                {
                    "length": length,
                    "in_distribution": False,
                    "count": len(loader.dataset),
                    "value": None,
                    "ci": None,
                    "token_acc": None,
                    "loss": None,
                    "loss_ci": None,
                    "undefined": why,
                }
            )
            continue
        rows.append(
            _length_row(
                task,
                length,
                shortest <= length <= longest,
                evaluate(model, loader, session.device, args, session.data, world=session.world),
            )
        )
    return sorted(rows, key=lambda r: r["length"])


def _length_row(task, length: int, inside: bool, result: dict) -> dict:
    value = result[task.primary]
    count = result["n_scored"] if task.primary == "token_acc" else result["n_examples"]
    return {
        "length": length,
        "in_distribution": inside,
        "count": count,
        "value": value,
        "ci": list(intervals.wilson(value * count, count)),
        "token_acc": result["token_acc"],
        "loss": finite(result["loss"]),
        "loss_ci": result["intervals"].get("loss"),
        "undefined": None,
    }


def decode_state(model, task) -> dict:
    """Bytes of the live decoding state after the longest sequence of the task, for one row."""
    tokens = min(task.max_tokens(), model.max_len or task.max_tokens())
    return {"cache": model.cache_kind(), "tokens": tokens, "bytes": state_bytes(state_after(model, tokens))}


def parameters(model) -> dict:
    """Trainable parameters, and those of embeddings (a tied head counts once, as embedding)."""
    embedding = {id(p): p.numel() for m in model.modules() if isinstance(m, torch.nn.Embedding) for p in m.parameters()}
    return {"total": sum(p.numel() for p in model.parameters()), "embedding": sum(embedding.values())}


def curves(log: list[dict], steps: int, eval_every: int) -> dict:
    """loss_curve, ppl_curve, grad_norm statistics and final_train (the mean over the last interval between validations)."""
    train = [r for r in log if "loss" in r]
    block = -(-len(train) // CURVE_POINTS) or 1
    blocks = [train[i : i + block] for i in range(0, len(train), block)]
    loss = {
        "train": [[b[-1]["step"], sum(r["loss"] for r in b) / len(b)] for b in blocks],
        "val": [[r["step"], r["val_loss"]] for r in log if "val_loss" in r],
    }
    ppl = {k: [[s, finite(perplexity(v))] for s, v in points] for k, points in loss.items()}
    norms = [r["grad_norm"] for r in train if r["grad_norm"] is not None]
    tail = [r for r in train if r["step"] > steps - eval_every] or train[-1:]
    weight = sum(r["trained"] for r in tail)
    final = sum(r["loss"] * r["trained"] for r in tail) / weight if weight else None
    return {
        "loss_curve": loss,
        "ppl_curve": ppl,
        "grad_norm": {
            "median": statistics.median(norms) if norms else None,
            "max": max(norms) if norms else None,
            "clipped_share": sum(r["clipped"] for r in train) / len(train) if train else None,
        },
        "final_train": {
            "loss": final,
            "bpc": None if final is None else bpc(final),
            "ppl": None if final is None else finite(perplexity(final)),
        },
    }


def public_args(args) -> dict:
    """Arguments without paths: a file's stem stands for it, and --data_path is left to `machine`."""
    values = to_dict(args)
    for kind in ("task", "model"):
        values[kind] = Path(values[kind]).stem if registry.is_path(values[kind]) else values[kind]
    del values["data_path"]
    return values


def final_metrics(fit: Fit, started_seconds: float) -> tuple[dict, str]:
    """(metrics.json's document before it is sealed, samples.txt's text). Every rank calls it; rank 0 writes."""
    model, session, progress = fit.model, fit.session, fit.progress
    task, args, data, device = session.task, session.args, session.data, session.device
    val, test = evaluate_both(model, fit.run_dir, progress, session)
    diverged = progress.diverged_at is not None
    examples = getattr(session.loaders["test"].dataset, "examples", [])
    floor_values, ceiling = chance_levels(data, examples), task.ceiling(examples)
    shown = public_args(args)
    final = None if diverged else test["best"]
    log = fit.run_dir.read_log()
    document = {
        "schema": SCHEMA_VERSION,
        "status": "diverged" if diverged else "done",
        "task": shown["task"],
        "model": shown["model"],
        "kind": task.kind,
        "primary": task.primary,
        "args": shown,
        "data": dataclasses.asdict(data.facts),
        "parameters": parameters(model),
        "decode_state": decode_state(model, task),
        "steps": progress.step,
        "best_step": progress.best_step,
        "diverged_at": progress.diverged_at,
        "chars_seen": progress.chars_seen,
        "examples_seen": progress.examples_seen,
        **curves(log, progress.step, fit.eval_every),
        "val": val,
        "test": test,
        "final_test": final,
        "floors": floor_values,
        "baselines": task.baselines(data.chance_train, examples),
        "ceiling": ceiling,
        # A run that diverged is a result: it scores the highest floor.
        "scaled": 0.0 if final is None else scaled(final[task.primary], floor_values, ceiling),
        "length_curve": length_curve(model, session, final),
    }
    document["machine"] = {
        "train_seconds": progress.seconds,
        "chars_per_second": progress.chars_seen / max(1e-9, progress.seconds),
        "step_seconds_median": statistics.median(r["seconds"] for r in log if "seconds" in r) if log else None,
        "command_seconds": started_seconds,
        "peak_memory_mib": peak_memory_mib(device),
        "out_dir": str(fit.run_dir.path),
        "data_path": args.data_path,
        "device": str(device),
    }
    if task.reads_text:
        samples = language_samples(model, data, device, args.seed)
    else:
        samples = samples_text(model, examples[:8], data, device)
    return document, samples
