"""From a finished training to the content of metrics.json, samples.txt and test_items.json.

    document, samples, items = final_metrics(fit, seconds)      # src/storage/schema.py describes the document

`--eval_only` uses the parts: `evaluate_splits` and `length_curve`.

The scores of val and test must succeed. What is measured beside them must not cost a training that is done. Where that
raises, the document holds "failed: reason" in its place (`attempt`).
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from pathlib import Path

import torch

from dataset.loaders import length_loader, named_lengths, sequences_digest
from dataset.task import Example, Task
from src.flags import presets, registry
from src.flags.groups import TOKENIZERS
from src.flags.run_flags import RunFlags, to_dict
from src.models.contract import ARModel
from src.models.fair import fair_differences
from src.models.match import count_parameters
from src.models.state import state_after, state_bytes
from src.ops import ran
from src.stats.means import mean_of
from src.storage import checkpoint
from src.storage.env import peak_memory_mib
from src.storage.items import UnitErrors, items_document
from src.storage.notes import notes_of
from src.storage.rundir import RunDir
from src.storage.schema import SCHEMA_VERSION
from src.utils.attempt import attempt, failure
from src.utils.chance import chance_levels, scaled
from src.utils.evaluation import (
    MOST_TOKENS,
    evaluate,
    pass_over,
    scores_of,
    teacher_forced_metric,
    unit_of,
)
from src.utils.memory import is_out_of_memory
from src.utils.metrics import bits_per_byte, bpc, finite, perplexity
from src.utils.precision import autocast
from src.utils.samples import language_samples, samples_text
from src.utils.session import Session
from src.utils.training import Fit, Progress

CURVE_POINTS = 1_000  # most training losses in metrics.json; a longer run stores means of blocks of equal size


def final_metrics(fit: Fit, began: float) -> tuple[dict, str, dict]:
    """(metrics.json before it is sealed, the text of samples.txt, the content of test_items.json).

    began: `time.perf_counter()` at the start of the command. Every rank must call it. The model ends with its best
    weights.
    """
    session, progress = fit.session, fit.progress
    task, args, data = session.task, session.args, session.data
    val, test, errors = evaluate_both(fit.model, fit.run_dir, progress, session)
    items = items_of_test(session, progress, errors)
    failed = dict(progress.failed)
    diverged = progress.diverged_at is not None
    examples = getattr(session.loaders["test"].dataset, "examples", [])
    levels, ceiling = chance_of(session)
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
        "parameters": count_parameters(fit.model, len(session.tokenizer))._asdict(),
        "fair_differences": fair_differences(fit.model, args),
        "decode_state": decode_state(fit.model, task, session.device, args.precision, failed),
        "precision": args.precision,
        "output_ratios": progress.output_ratios,
        "steps": progress.step,
        "best_step": progress.best_step,
        "diverged_at": progress.diverged_at,
        "stopped_at": progress.stopped_at,
        "solved_at": solved_at(session, progress),
        "chars_seen": progress.chars_seen,
        "examples_seen": progress.examples_seen,
        **curves(log, progress.step, fit.eval_every, data.facts.unit),
        "val": val,
        "test": test,
        "final_test": final,
        "test_items": items["sha256"],
        "floors": levels,
        "baselines": task.baselines(data.chance_train, examples),
        "ceiling": ceiling,
        # A run that diverged is a result: its score is that of chance.
        "scaled": 0.0 if final is None else scaled(final[task.primary], levels, ceiling),
        "length_curve": length_curve(fit.model, session, final),
    }
    document["length_mean"] = length_mean(task, args, document["length_curve"], levels, ceiling)
    document["preset"] = presets.described(session.preset, args)
    samples = attempt(failed, "samples", lambda: _samples(fit.model, examples, session))
    document["failed"] = failed
    document["notes"] = notes_of(document)
    document["machine"] = _machine(fit, log, began)
    return document, failed["samples"] + "\n" if samples is None else samples, items


def _samples(model: ARModel, examples: list[Example], session: Session) -> str:
    """The text of samples.txt."""
    data, device, args = session.data, session.device, session.args
    if session.task.reads_text:
        try:
            return language_samples(model, data, device, args.seed, precision=args.precision)
        except Exception:  # the model may take no more tokens than a window has, without a max_len that says so
            within = session.task.max_tokens()
            return language_samples(model, data, device, args.seed, precision=args.precision, longest=within)
    return samples_text(model, examples[:8], data, device, args.precision)


def chance_of(session: Session) -> tuple[dict, float]:
    """The chance levels and the ceiling of the test set."""
    examples = getattr(session.loaders["test"].dataset, "examples", [])
    return chance_levels(session.data, examples), session.task.ceiling(examples)


def solved_at(session: Session, progress: Progress) -> dict:
    """When the run first reached --solved_at on val: threshold, step (None: not yet), and why it cannot be known."""
    task, threshold, reason = session.task, session.args.solved_at, None
    if not threshold:
        reason = "--solved_at 0 records nothing"
    elif teacher_forced_metric(task) is None:
        reason = f"the primary metric {task.primary} needs decoded answers, which a validation does not make"
    return {"threshold": threshold, "step": progress.solved_at, "reason": reason}


def items_of_test(session: Session, progress: Progress, errors: UnitErrors) -> dict:
    """The content of test_items.json. errors: of the best weights. A run that diverged has no items."""
    task, dataset = session.task, session.loaders["test"].dataset
    why = None if progress.diverged_at is None else f"the run diverged at step {progress.diverged_at}"
    found, step = (errors, progress.best_step) if why is None else ({}, None)
    return items_document(task.primary, unit_of(dataset), sequences_digest(task, dataset), found, step, why)


def evaluate_both(
    model: ARModel, run_dir: RunDir, progress: Progress, session: Session
) -> tuple[dict, dict, UnitErrors]:
    """({"best": R, "last": R} of val, the same of test, the errors per unit of test by the best weights).

    The model ends with its best weights. The last weights have no result (None) after a divergence. The best ones have
    none where the run diverged before its first validation.
    """
    last, errors = (None, {}) if progress.diverged_at is not None else evaluate_splits(model, session)
    best = None
    if progress.best_step is not None:
        best = last if last is not None and progress.best_step == progress.step else None
        if best is None:
            model.load_state_dict(checkpoint.load(run_dir.best, session.device)["model"])
            best, errors = evaluate_splits(model, session)
    val, test = ({"best": best and best[split], "last": last and last[split]} for split in ("val", "test"))
    return val, test, errors


def evaluate_splits(model: ARModel, session: Session) -> tuple[dict[str, dict], UnitErrors]:
    """({"val": R, "test": R} of the weights that the model holds, the errors per unit of test).

    A task on real text adds heldout_loss and heldout_bits_per_byte to test.
    """
    s = session
    scores = {split: scores_of(model, s.loaders[split], s.device, s.args, s.data, s.world) for split in ("val", "test")}
    results = {split: found.result() for split, found in scores.items()}
    if "heldout" in s.loaders:
        loader = s.loaders["heldout"]
        heldout = pass_over(model, loader, s.device, s.args, world=s.world)
        results["test"]["heldout_loss"] = heldout.loss
        scored = heldout.count, loader.dataset.scored_bytes
        results["test"]["heldout_bits_per_byte"] = bits_per_byte(heldout.loss, *scored)
    return results, scores["test"].by_unit()


def length_curve(model: ARModel, session: Session, final_test: dict | None) -> list[dict]:
    """The primary metric and the loss at the training maximum and at each of --eval_lengths, in the order of length.

    A length that the model cannot take, or that does not fit into memory, is "undefined", and so is one at which the
    model raises ("failed: reason"). The length of a language task is that of its windows. Every length scores the same
    text. What differs is how many characters come before each scored one.
    """
    task, s = session.task, session
    longest, shortest = task.longest_length(), task.shortest_length()
    if longest is None or final_test is None:
        return []
    rows = [_length_row(task, longest, True, final_test)]
    for length in s.eval_lengths:
        loader = length_loader(task, s.tokenizer, s.args, length)
        try:
            why = why_undefined(model, loader.dataset.longest)
            if why:
                rows.append(_undefined_row(length, len(loader.dataset), why))
                continue
            result = evaluate(model, loader, s.device, s.args, s.data, world=s.world)
        except (Exception, SystemExit) as error:
            if s.world.size > 1:  # ranks that wait for this one would wait for ever
                raise
            why = f"out of memory on {s.device}" if is_out_of_memory(error) else failure(error)
            rows.append(_undefined_row(length, s.args.eval_size or s.args.test_size, why))
            continue
        rows.append(_length_row(task, length, shortest <= length <= longest, result))
    return sorted(rows, key=lambda r: r["length"])


def why_undefined(model: ARModel, tokens: int) -> str:
    """Why a model has no score on sequences of this many tokens; "" where it has one."""
    if model.max_len is not None and tokens > model.max_len:
        return f"beyond {model.limit()}"
    if tokens > MOST_TOKENS and _state_grows(model):
        return f"more than {MOST_TOKENS:,} tokens, and the decoding state grows with the length"
    return ""


def _state_grows(model: ARModel) -> bool:
    """Whether the decoding state grows with the length. One that replays its prefix keeps the prefix."""
    if model.cache_kind() != "own":
        return True
    return state_bytes(model.init_state(1, 2_048)) > state_bytes(model.init_state(1, 1_024))


def length_mean(task: Task, args: RunFlags, curve: list[dict], levels: dict, ceiling: float) -> dict | None:
    """The mean of the primary metric over the lengths that --eval_lengths names, and its interval. None without any.

    curve: `length_curve`. Every length has its own test sequences, so the intervals are combined as independent ones
    (src/stats/means.py). The lengths of a language task share one text, and their mean has no interval.
    """
    named = set(named_lengths(task, args.eval_lengths)) if curve else set()
    rows = [row for row in curve if row["length"] in named]
    if not rows:
        return None
    lengths = [row["length"] for row in rows]
    if any(row["value"] is None for row in rows):
        return {"lengths": lengths, "value": None, "scaled": None, "ci": None}
    value, ci = mean_of([row["value"] for row in rows], [row["ci"] for row in rows])
    return {
        "lengths": lengths,
        "value": value,
        "scaled": scaled(value, levels, ceiling),
        "ci": None if task.reads_text else list(ci),
    }


def decode_state(
    model: ARModel, task: Task, device: torch.device | str, precision: str, failed: dict[str, str]
) -> dict:
    """Bytes of the live decoding state of one row after the longest sequence of the task, in this precision.

    Where the model cannot decode, the bytes are None, and `failed` gets the reason.
    """
    tokens = min(task.max_tokens(), model.max_len or task.max_tokens())

    def size() -> int:
        with autocast(device, precision), ran.phase("decoding"):
            return state_bytes(state_after(model, tokens))

    return {"cache": model.cache_kind(), "tokens": tokens, "bytes": attempt(failed, "decode_state", size)}


def curves(log: list[dict], steps: int, eval_every: int, unit: str = "character") -> dict:
    """loss_curve, ppl_curve, the statistics of grad_norm, and final_train, from the rows of metrics.jsonl.

    final_train is the mean training loss per trained character (or token: `unit`) over the last `eval_every` steps.
    """
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
            "bpc": None if final is None or unit != "character" else bpc(final),
            "ppl": None if final is None else finite(perplexity(final)),
        },
    }


def public_args(args: RunFlags) -> dict:
    """The flags without paths. A user's file is shown as its stem, a tokenizer by its name, and --data_path is left to
    `machine`."""
    values = to_dict(args)
    for flag in ("task", "model"):
        values[flag] = Path(values[flag]).stem if registry.is_path(values[flag]) else values[flag]
    if values["tokenizer"] not in TOKENIZERS:
        values["tokenizer"] = Path(values["tokenizer"]).name
    del values["data_path"]
    return values


def _length_row(task: Task, length: int, inside: bool, result: dict) -> dict:
    """The row of one length. inside: whether the model is trained at this length."""
    basis = result["interval_basis"][task.primary]
    return {
        "length": length,
        "in_distribution": inside,
        "count": basis["count"],
        "n_effective": basis["n_effective"],
        "value": result[task.primary],
        "ci": result["intervals"][task.primary],
        "token_acc": result["token_acc"],
        "loss": finite(result["loss"]),
        "loss_ci": result["intervals"].get("loss"),
        "undefined": None,
    }


def _undefined_row(length: int, count: int, why: str) -> dict:
    """The row of a length without a value."""
    empty = dict.fromkeys(("n_effective", "value", "ci", "token_acc", "loss", "loss_ci"))
    return {"length": length, "in_distribution": False, "count": count, **empty, "undefined": why}


def _machine(fit: Fit, log: list[dict], began: float) -> dict:
    """What depends on the machine and not on the flags: times, memory, paths."""
    progress, session = fit.progress, fit.session
    return {
        "train_seconds": progress.seconds,
        "chars_per_second": progress.chars_seen / max(1e-9, progress.seconds),
        "step_seconds_median": statistics.median(r["seconds"] for r in log if "seconds" in r) if log else None,
        "command_seconds": time.perf_counter() - began,  # evaluation and samples included, figures not
        "peak_memory_mib": peak_memory_mib(session.device),
        "out_dir": str(fit.run_dir.path),
        "data_path": session.args.data_path,
        "device": str(session.device),
    }
