"""Checks a layer of the user's own file in about a second, before it is trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from dataset.task import Task
from src.flags import registry
from src.flags.fields import UserError
from src.flags.run_flags import RunFlags
from src.setup.plan import Setup

# Tokens up to which the lengths of --eval_lengths are looked at. Attention takes a second for few rows of them.
FARTHEST = 2048
CONSEQUENCES = {
    "decoding": "; decoded answers and samples will be wrong",
    "training": "; training will go wrong after a validation",
}


def check_user_model(
    setup: Setup, model, tokenizer, device, task: Task, eval_tokens: Iterable[int] = ()
) -> tuple[Setup, list[str]]:
    """Check whether a layer of the user's own file is causal, and whether its `step` equals its `forward`.

    The sequences and the batch are as long and as large as in the run: its longest training sequence, its longest
    evaluation sequence up to FARTHEST tokens, and its precision.
    eval_tokens: the longest sequence, in tokens, of each of --eval_lengths.

    Returns the setup and the warnings to print. A layer that is not causal, that mixes the rows of a batch, or about
    which this could not be said, raises UserError, unless --allow_noncausal is given. The returned setup has
    allow_noncausal only where the layer needs it, because figures then say so.
    """
    name, allowed = setup.args.model, setup.args.allow_noncausal
    causal = dataclasses.replace(setup, args=dataclasses.replace(setup.args, allow_noncausal=False))
    if not registry.is_path(name):
        return causal, []
    from src.checks import quick

    results = quick(
        model,
        len(tokenizer),
        device,
        lengths=longest(task, eval_tokens),
        batch=batch_of(setup.args, task),
        precision=setup.args.precision,
    )
    if (found := objection(results)) and not allowed:
        reason, advice = found
        raise UserError(
            f"--model: '{name}' {reason}. {advice} Run `python benchmark.py check --model {name}` to see all checks, "
            "or give --allow_noncausal to train it; every figure then says so"
        )
    if found:
        return setup, [f"warning: {name} {found[0]}; its scores may not measure prediction"]
    return causal, [
        f"warning: {name} fails check '{r.name}' ({r.note}){CONSEQUENCES.get(r.group, '')}; run "
        f"`python benchmark.py check --model {name}` to see all checks"
        for r in results
        if r.status == "fail"
    ][:1]


def objection(results) -> tuple[str, str] | None:
    """(why a layer is not trained, what is allowed), or None where nothing is wrong."""
    from src.checks import mixes_rows, sees_the_future, varies, without_answer

    if leaks := sees_the_future(results):
        return (
            f"sees the future, so it is not causal: check '{leaks[0].name}' failed, {leaks[0].note}",
            "Allowed: a layer whose output at t depends on no later input.",
        )
    if rows := mixes_rows(results):
        return (
            f"mixes the rows of a batch: check '{rows[0].name}' failed, {rows[0].note}",
            "Allowed: a layer in which each row depends on itself alone.",
        )
    if random := varies(results):
        return (
            f"gives several outputs for one input: check '{random[0].name}' failed, {random[0].note}",
            "Allowed: a layer that draws no random numbers in eval mode and keeps nothing from call to call.",
        )
    if silent := without_answer(results):
        return (
            f"is not known to be causal: check '{silent[0].name}' {silent[0].note}",
            "Allowed: a layer that runs at all lengths of the run and gives the same output for the same input.",
        )
    return None


def longest(task: Task, eval_tokens: Iterable[int]) -> tuple[int, ...]:
    """Tokens of the longest training sequence, and of the longest evaluation sequence if it is longer."""
    trained = task.max_tokens()
    far = min(FARTHEST, max(eval_tokens, default=0))
    return (trained, far) if far > trained else (trained,)


def batch_of(args: RunFlags, task: Task) -> int:
    """Rows of the longest sequences in one forward pass of training."""
    rows = max(1, args.batch_chars // task.max_tokens()) if args.batch_chars else args.batch_size
    return min(rows, args.micro_batch_size or rows)
